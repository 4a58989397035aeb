#!/usr/bin/env bash
# Create .venv with the pinned packages of requirements/*.txt. Run again, it does nothing.
#   PYTHON=...   the interpreter (3.10 or 3.11; default: python3.11, python3.10 or python3)
#   WHEELS=...   a folder with a wheel of mmcv; ../shared/wheels and the cache folder are looked into as well
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
log=$venv/install.log
unfinished=$venv/unfinished
cache=${XDG_CACHE_HOME:-${HOME:-$PWD/.cache}/.cache}/vadslim/wheels
start=$SECONDS

say() { printf '[env %3ds] %s\n' $((SECONDS - start)) "$*"; }
fail() {
    printf 'env: %s\n' "$*" >&2
    exit 2
}

# Everything that the folder .venv depends on: the requirements, this checkout's place, the interpreter.
fingerprint() {
    { cat requirements/*.txt setup.py tools/env.sh && echo "$PWD" && "$venv/bin/python" -VV; } 2>&1 |
        sha256sum | cut -d' ' -f1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.10 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$candidate has no venv module; install it (Debian: apt-get install python3-venv)"
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.10 or 3.11; tried ${PYTHON:-python3.11, python3.10, python3} (PYTHON=/path/to/python3.11 names one)"
}

pinned() { sed -n "s/^$1==\([^ ]*\).*/\1/p" requirements/*.txt; }

# pip, its whole output in the log, one line per package on the terminal.
pip() {
    PYTHONUNBUFFERED=1 "$venv/bin/python" -m pip --disable-pip-version-check "$@" 2>&1 | tee -a "$log" |
        while IFS= read -r line; do
            case $line in
            'Collecting '*) line=${line#Collecting } && echo "    ${line%% *}" ;;
            'Installing collected packages'*)
                say 'unpacking the packages'
                : >"$unfinished" # from now on a failure leaves half of it
                ;;
            ERROR*) echo "    $line" ;;
            esac
        done || fail "pip failed (whole output: $log); remove the cause and run the same command again"
}

# The newest wheel of the pinned mmcv for this interpreter and machine, if there is one.
find_wheel() {
    local tag folder wheel
    tag=$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    for folder in ${WHEELS:+"$WHEELS"} ../shared/wheels .cache/wheels "$cache"; do
        for wheel in "$folder/mmcv-$(pinned mmcv)-$tag-$tag-"*"$(uname -m).whl"; do
            if [ -f "$wheel" ]; then
                echo "$wheel"
                return
            fi
        done
    done
}

loads_mmcv() { "$venv/bin/python" -c 'import mmcv.ops' >>"$log" 2>&1; }

# mmcv publishes no wheel for this torch: its operators are compiled against the installed one.
build_wheel() {
    local builder ticks=0
    command -v c++ >/dev/null || fail 'a C++ compiler is needed to build mmcv (Debian: apt-get install g++)'
    "$venv/bin/python" -c 'import pathlib, sysconfig as s, sys
sys.exit(not pathlib.Path(s.get_path("include"), "Python.h").exists())' ||
        fail "the headers of $("$venv/bin/python" -V) are needed to build mmcv (Debian: apt-get install python3-dev)"
    say 'installing torch and the build tools'
    pip install --progress-bar off -r requirements/build.txt "torch==$(pinned torch)" 'numpy<2'
    say "building mmcv $(pinned mmcv) from source: about 20 minutes on two cores, once; kept in $cache"
    mkdir -p "$cache"
    set -m # a process group of its own, so that an interruption ends the compilers too
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} "$venv/bin/python" -m pip --disable-pip-version-check wheel \
        --no-deps --no-build-isolation --no-binary mmcv --wheel-dir "$venv/wheels" "mmcv==$(pinned mmcv)" >>"$log" 2>&1 &
    builder=$!
    set +m
    trap 'kill -- -$builder 2>/dev/null' EXIT
    while sleep 5 && kill -0 $builder 2>/dev/null; do
        ticks=$((ticks + 1))
        [ $((ticks % 12)) -ne 0 ] || say "building mmcv: $((ticks / 12)) min"
    done
    wait $builder || fail "mmcv could not be built; the compiler's words are at the end of $log"
    trap - EXIT
    mv "$venv/wheels/"mmcv-*.whl "$cache/"
}

[ -x $venv/bin/python ] && [ ! -e $unfinished ] && [ "$(cat $venv/fingerprint 2>/dev/null)" = "$(fingerprint)" ] && exit 0

python=$(find_python)
[ ! -e $venv ] || [ -e $log ] || fail "$venv was not made by this command; move it away"
if [ -e $unfinished ] || ! $venv/bin/python -c 'import pip' 2>/dev/null; then
    [ ! -e $unfinished ] || say 'an earlier installation was interrupted: starting afresh'
    rm -rf $venv
    mkdir $venv
    : >$log
    : >$unfinished
    say "creating $venv with $("$python" -V)"
    "$python" -m venv $venv
fi
: >$log

wheel=$(find_wheel)
if [ -z "$wheel" ]; then
    build_wheel
    wheel=$(WHEELS=$cache find_wheel)
fi
say "installing the pinned packages, about 3 minutes and 3 GB; mmcv from $wheel"
pip install --progress-bar off --find-links "$(dirname "$wheel")" -r requirements/build.txt -e '.[vad,tests]'
if ! loads_mmcv; then
    say "$wheel does not load with torch $(pinned torch) (see $log)"
    build_wheel
    pip install --no-deps --force-reinstall "$cache/mmcv-$(pinned mmcv)"-*.whl
    loads_mmcv || fail "mmcv does not load (see $log)"
fi
fingerprint >$venv/fingerprint
rm -f $unfinished
say 'ready'
