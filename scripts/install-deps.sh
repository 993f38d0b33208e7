#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing of the compilers and libraries that fluxlora is built with, on Debian and Ubuntu.
#
#   scripts/install-deps.sh [--tests] [--python]    --tests: for the tests too; --python: for the comparisons too
#
# Does nothing, and needs no rights, when all is there. FLUXLORA_SKIP_INSTALL=1 trusts that it is.
set -euo pipefail
. "$(dirname "$0")/common.sh"

packages=(
  g++ cmake ninja-build ccache pkg-config
  libvips-dev libopenblas-dev libdnnl-dev libsentencepiece-dev libprotobuf-dev libutf8proc-dev libssl-dev
  libcurl4-openssl-dev libdlib-dev
  libcli11-dev libfmt-dev libtomlplusplus-dev libyaml-cpp-dev nlohmann-json3-dev
)
for option in "$@"; do
  case "$option" in
    --tests) packages+=(libgtest-dev libgmock-dev) ;;
    --python) python3 -c 'import ensurepip, venv' 2> /dev/null || packages+=(python3 python3-venv) ;;
    *) fail "$option: no such option" "scripts/install-deps.sh [--tests] [--python]" ;;
  esac
done
if [ "${FLUXLORA_SKIP_INSTALL:-0}" = 1 ]; then exit 0; fi

missing=()
for package in "${packages[@]}"; do
  status="$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)"
  if [ "$status" != installed ]; then missing+=("$package"); fi
done
if [ "${#missing[@]}" = 0 ]; then exit 0; fi

if ! command -v apt-get > /dev/null; then
  fail "apt-get is not here, and these are missing: ${missing[*]}" \
    "install their like by your system's own means, then set FLUXLORA_SKIP_INSTALL=1"
fi
as_root=(env)
if [ "$(id -u)" != 0 ]; then
  command -v sudo > /dev/null || fail "root is needed to install ${missing[*]}" \
    "run as root: apt-get install ${missing[*]}"
  as_root=(sudo env)
fi
apt() { "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 "$@" > /dev/null; }

say "installing ${missing[*]}"
apt update || fail "apt-get update failed" "is a package mirror reachable? see /etc/apt"
apt install --yes --no-install-recommends "${missing[@]}" ||
  fail "apt-get could not install ${missing[*]}" "fluxlora is built on Debian 12, Debian 13 and Ubuntu 24.04"
