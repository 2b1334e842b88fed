#!/usr/bin/env bash
# Builds the images with docker, or with buildah where there is no docker: docker/build.sh [SERVICE...]
#
#   REGISTRY         what their names begin with                      [syncline]
#   TAG              their tag                                        [the version in pyproject.toml]
#   FLAVOUR          cpu, or gpu for learner and inference            [cpu]
#   BASE_IMAGE       what they are built on                           [Debian's Python; for gpu, CUDA with its compiler]
#   BUILDER          docker or buildah                                [the first that is there]
#   BUILD_OPTIONS    further options of the builder                   []
#   INSTALL_OPTIONS  further options of `pip install`                 []
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

registry=${REGISTRY:-syncline}
tag=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
flavour=${FLAVOUR:-cpu}
read -ra options <<<"${BUILD_OPTIONS:-}"
services=("$@")
((${#services[@]})) || services=(coordinator inference reward learner)

for builder in ${BUILDER:-docker buildah} none; do
    if command -v "$builder" >/dev/null; then break; fi
done
case $builder in
docker) build=(docker build) ;;
buildah) build=(buildah bud --format docker) ;; # the other format has no health checks
*)
    echo "There is neither docker nor buildah; on Debian: apt-get install buildah" >&2
    exit 1
    ;;
esac

for service in "${services[@]}"; do
    arguments=()
    base=${BASE_IMAGE:-}
    if [[ $service == inference || $service == learner ]]; then
        arguments+=(--build-arg "FLAVOUR=$flavour")
        # CUDA 13.0, for which the torch and vLLM of the lock are built: what compiles kernels at run time has to match.
        [[ $flavour == cpu ]] || base=${base:-docker.io/nvidia/cuda:13.0.1-devel-ubuntu24.04}
    fi
    [[ -z $base ]] || arguments+=(--build-arg "BASE_IMAGE=$base")
    [[ -z ${INSTALL_OPTIONS:-} ]] || arguments+=(--build-arg "INSTALL_OPTIONS=$INSTALL_OPTIONS")
    image=$registry/$service:$tag
    echo "== $image"
    "${build[@]}" "${options[@]}" "${arguments[@]}" --file "docker/$service.Dockerfile" --tag "$image" .
done
