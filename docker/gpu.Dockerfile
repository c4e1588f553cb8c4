# The service with Gibbs sampling on an NVIDIA GPU. Build it from the root of the repository:
#   docker build -f docker/gpu.Dockerfile -t qshower:gpu .
# torch brings the CUDA libraries along, so that the base needs none; the driver comes from the host's container toolkit.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Index that holds PyTorch's CUDA builds. Empty: torch comes from pip's own index.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY docker/environment.sh docker/environment.sh
COPY pyproject.toml requirements.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf docker/environment.sh dependencies /opt/qshower
COPY . .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf docker/environment.sh package /opt/qshower
WORKDIR /
RUN NUMBA_CACHE_DIR=/opt/qshower/kernels /opt/qshower/bin/python /src/docker/warm.py \
    && cp /src/docker/start.sh /opt/qshower/bin/qshower-start \
    && chmod -R a+rX /opt/qshower

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="qshower-gpu" \
      org.opencontainers.image.description="Calorimeter showers on request, with Gibbs sampling on a GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton compiles the launcher of its kernels with a C compiler when the service starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 qshower \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/qshower --create-home --shell /usr/sbin/nologin qshower
COPY --from=build /opt/qshower /opt/qshower
# /tmp must allow programs to be mapped (--tmpfs /tmp:exec): Triton loads its launchers from there.
ENV PATH=/opt/qshower/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/qshower-kernels \
    TRITON_CACHE_DIR=/tmp/qshower-triton \
    XDG_CACHE_HOME=/tmp/qshower-cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    QSHOWER_DEVICE=cuda \
    QSHOWER_QPU_STATE_FOLDER=/var/lib/qshower/qpu \
    QSHOWER_HOST=0.0.0.0 \
    QSHOWER_PORT=8000 \
    QSHOWER_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/qshower
VOLUME ["/var/lib/qshower"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"QSHOWER_PORT\"]}/health/ready', timeout=4)"]
ENTRYPOINT ["qshower-start"]
CMD ["qshower", "serve"]
