# The service with its pretrained models. README.md tells how to build and run it.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Index that holds PyTorch's CPU builds. Empty: torch comes from pip's own index, which may mean a CUDA build.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY docker/environment.sh docker/environment.sh
COPY pyproject.toml requirements.lock ./
# The secret is a pip.conf, for a mirror; what it says stays out of the image.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf docker/environment.sh dependencies /opt/qshower
COPY . .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf docker/environment.sh package /opt/qshower
# Outside /src, so that the installed package is what runs, at the path it will have.
WORKDIR /
RUN NUMBA_CACHE_DIR=/opt/qshower/kernels /opt/qshower/bin/python /src/docker/warm.py \
    && cp /src/docker/start.sh /opt/qshower/bin/qshower-start \
    && chmod -R a+rX /opt/qshower

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="qshower" \
      org.opencontainers.image.description="Calorimeter showers on request" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 qshower \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/qshower --create-home --shell /usr/sbin/nologin qshower
COPY --from=build /opt/qshower /opt/qshower
ENV PATH=/opt/qshower/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/qshower-kernels \
    XDG_CACHE_HOME=/tmp/qshower-cache \
    QSHOWER_QPU_STATE_FOLDER=/var/lib/qshower/qpu \
    QSHOWER_HOST=0.0.0.0 \
    QSHOWER_PORT=8000 \
    QSHOWER_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/qshower
# Calibrations and budgets of a QPU.
VOLUME ["/var/lib/qshower"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"QSHOWER_PORT\"]}/health/ready', timeout=4)"]
ENTRYPOINT ["qshower-start"]
CMD ["qshower", "serve"]
