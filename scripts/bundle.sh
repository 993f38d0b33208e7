#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the program and its libraries into build-PRESET/fluxlora-VERSION-linux-x86_64.tar.xz, which runs on any
# distribution with this machine's glibc or a newer one, without installing anything.
#
#   scripts/bundle.sh [PRESET]    release-cuda (the default), or release: without the GPU
#
# Not in it: glibc, the GPU's driver, cuBLAS, cuDNN, NVRTC, NCCL. The program looks for those in FLUXLORA_CUDA_LIBS, in
# the folder cuda/ beside it, in the system's folders and in Python's packages.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

preset="${1:-release-cuda}"
folder="build-$preset"
most=$((40 * 1000 * 1000))

# The distribution's libvips draws in a hundred libraries, of which ICU alone is 31 MB, for formats that we refuse (SVG,
# FITS, MATLAB ...). So its own source is built once more, with the formats that we read. Same version, same ABI.
vips=.deps/vips
make_vips() {
  local version lists=.deps/vips-source/lists apt codename
  version="$(pkg-config --modversion vips)"
  if [ "$(cat "$vips/version" 2> /dev/null || true)" = "$version" ]; then return; fi
  say "building libvips $version with the formats that fluxlora reads"
  codename="$(. /etc/os-release && echo "$VERSION_CODENAME")"
  rm -rf "$vips" .deps/vips-source
  mkdir -p "$lists/partial" .deps/vips-source/parts
  if [ "$(. /etc/os-release && echo "$ID")" = ubuntu ]; then
    printf 'Types: deb-src\nURIs: http://archive.ubuntu.com/ubuntu\nSuites: %s\nComponents: universe\nSigned-By: %s\n' \
      "$codename" /usr/share/keyrings/ubuntu-archive-keyring.gpg
  else
    printf 'Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
      "$codename" /usr/share/keyrings/debian-archive-keyring.gpg
  fi > .deps/vips-source/parts/source.sources
  apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$root/.deps/vips-source/parts"
    -o "Dir::State::Lists=$root/$lists" -o APT::Sandbox::User=)
  "${apt[@]}" update
  (cd .deps/vips-source && "${apt[@]}" source --download-only vips && dpkg-source --no-check -x ./*.dsc source) \
    > .deps/vips-source/fetch.log 2>&1 || fail "the source of libvips could not be fetched" \
    "read .deps/vips-source/fetch.log; dpkg-dev is needed, and a package mirror with sources"
  python3 -m venv .deps/vips-source/meson
  .deps/vips-source/meson/bin/python -m pip install --quiet --disable-pip-version-check meson==1.9.1
  local on=() name
  for name in exif heif jpeg lcms orc png tiff webp; do on+=("-D$name=enabled"); done
  {
    .deps/vips-source/meson/bin/meson setup .deps/vips-source/build .deps/vips-source/source --prefix=/fluxlora \
      --libdir=lib --buildtype=release --strip -Dauto_features=disabled -Dmodules=disabled -Dintrospection=false \
      -Dexamples=false "${on[@]}"
    DESTDIR="$root/.deps/vips-source/installed" .deps/vips-source/meson/bin/meson install -C .deps/vips-source/build
  } > .deps/vips-source/build.log 2>&1 || fail "libvips could not be built" "read .deps/vips-source/build.log"
  mkdir -p "$vips"
  mv .deps/vips-source/installed/fluxlora/lib "$vips/lib"
  echo "$version" > "$vips/version"
}

# Whether a library belongs to glibc, which the machine that runs the program must have anyway.
is_glibc() {
  case "$1" in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | libutil.so.* | libmvec.so.* | ld-linux*)
      return 0 ;;
  esac
  return 1
}

# needs FILE: the libraries that the loader finds for it, as paths.
needs() { LD_LIBRARY_PATH="$root/$vips/lib" ldd "$1" | awk '$3 ~ /^\// {print $3}'; }

pack() {
  local name="$1" library base package
  local to="$folder/$name"
  rm -rf "$to"
  mkdir -p "$to/lib" "$to/licences"
  strip -o "$to/fluxlora" "$folder/fluxlora"
  needs "$folder/fluxlora" | while read -r library; do
    base="$(basename "$library")"
    if is_glibc "$base"; then continue; fi
    strip --strip-unneeded -o "$to/lib/$base" "$library" 2> /dev/null || cp -L "$library" "$to/lib/$base"
    package="$(dpkg-query -S "$(readlink -f "$library")" 2> /dev/null | head -n 1 | cut -d: -f1 || true)"
    if [ -z "$package" ]; then package="$(dpkg-query -S "$base" 2> /dev/null | head -n 1 | cut -d: -f1 || true)"; fi
    if [ -n "$package" ]; then cp -n "/usr/share/doc/$package/copyright" "$to/licences/$package" 2> /dev/null || true; fi
  done
  cp LICENSE "$to/"
  cp -r presets docs "$to/"
  sed 's/^    //' > "$to/README.txt" <<'END'
    fluxlora: ./fluxlora --help, ./fluxlora doctor, docs/config.md.
    For an NVIDIA GPU: a driver for CUDA 13, and cuBLAS, cuDNN and NVRTC:
        pip install nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 nvidia-cuda-nvrtc==13.0.88
    They are found in FLUXLORA_CUDA_LIBS, in cuda/ beside the program, in the system's folders and in Python's packages.
END
  # Nothing may come from this machine but glibc.
  local foreign
  foreign="$(env -i ldd "$to/fluxlora" | awk '/not found/ {print $1} $3 ~ /^\// {print $3}' | grep -v "^$root/$to/lib/" |
    while read -r library; do is_glibc "$(basename "$library")" || echo "$library"; done || true)"
  if [ -n "$foreign" ]; then fail "the bundle would take $foreign from the machine" "see pack in scripts/bundle.sh"; fi
  (cd "$folder" && tar --sort=name --owner=0 --group=0 --mtime=@0 -cf - "$name" | xz --x86 --lzma2=preset=9e,dict=192MiB -T1 > "$name.tar.xz")
}

scripts/install-deps.sh --python
case "$preset" in *cuda*) scripts/setup-cuda.sh ;; esac
make_vips
say "building (preset $preset)"
configure_and_build "$preset" "$folder" -DFLUXLORA_TESTS=OFF -DCMAKE_SKIP_RPATH=ON \
  "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags -Wl,-rpath,'\$ORIGIN/lib'" -- fluxlora
version="$("$folder/fluxlora" --version | awk '{print $NF}')"
name="fluxlora-$version-linux-x86_64"
pack "$name"
size="$(stat -c %s "$folder/$name.tar.xz")"
say "$folder/$name.tar.xz: $((size / 1000000)).$((size / 100000 % 10)) MB, $(find "$folder/$name/lib" -type f | wc -l) libraries"
if [ "$size" -gt "$most" ]; then fail "the archive is larger than 40 MB" "xz -9 each file of $folder/$name to see which"; fi
