# The coordinator: REST API, web page, schedule. No torch: transformers is there for its tokenizers only.
#   docker build -f docker/coordinator.Dockerfile -t syncline/coordinator .
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
# tini is process 1: it hands signals on and buries the orphans of other processes. A CUDA image brings no Python.
RUN missing=""; \
    command -v tini >/dev/null || missing="tini"; \
    command -v python3 >/dev/null || missing="$missing python3 python3-venv"; \
    if [ -n "$missing" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; \
    fi

FROM base AS packages
ARG INSTALL_OPTIONS=""
WORKDIR /build
COPY pyproject.toml docker/requirements-cpu.lock docker/wanted.py ./
# The lock's pins, and of them only what this service asks for. INSTALL_OPTIONS is left unquoted: it may be several.
# The project itself is a layer of its own, which the environment finds by its .pth file.
RUN python3 wanted.py coordinator > wanted.txt \
    && python3 -m venv /opt/syncline \
    && /opt/syncline/bin/python -m pip install --no-cache-dir $INSTALL_OPTIONS \
        --constraint requirements-cpu.lock --requirement wanted.txt \
    && printf '%s\n' /opt/project/shared /opt/project > "$(echo /opt/syncline/lib/python3.*/site-packages)/syncline.pth"

FROM base AS project
WORKDIR /opt/project
COPY shared shared
COPY services services
RUN python3 -m compileall -q .

FROM base
LABEL org.opencontainers.image.title="syncline-coordinator" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin syncline \
    && install -d -o 10001 -g 10001 /models /data /runs
COPY --from=packages /opt/syncline /opt/syncline
COPY --from=project /opt/project /opt/project
ENV PATH=/opt/syncline/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["python3", "-m", "syncline.healthcheck", "readiness"]
ENTRYPOINT ["tini", "--"]
CMD ["python3", "-m", "services.coordinator"]
