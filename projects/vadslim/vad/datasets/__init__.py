"""Data of VAD: dataset, transforms, data preprocessor, sampler. Importing it registers them."""

from vadslim.vad.datasets.nuscenes_vad import VADNuScenesDataset
from vadslim.vad.datasets.preprocessor import VADDataPreprocessor
from vadslim.vad.datasets.sampler import SceneSampler
from vadslim.vad.datasets.transforms import (
    CustomObjectNameFilter,
    CustomObjectRangeFilter,
    PhotoMetricDistortionMultiViewImage,
    RandomScaleImageMultiViewImage,
    VADLoadMultiViewImages,
    VADPackInputs,
)

__all__ = [
    'CustomObjectNameFilter',
    'CustomObjectRangeFilter',
    'PhotoMetricDistortionMultiViewImage',
    'RandomScaleImageMultiViewImage',
    'SceneSampler',
    'VADDataPreprocessor',
    'VADLoadMultiViewImages',
    'VADNuScenesDataset',
    'VADPackInputs',
]
