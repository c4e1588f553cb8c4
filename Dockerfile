# The service with its pretrained models; README.md tells how to build and run it. Two targets: cpu, which is the default,
# and gpu, for Gibbs sampling on an NVIDIA GPU (docker build --target gpu -t qshower:gpu .). torch brings the CUDA
# libraries along, so that both have one base; the driver comes from the host's container toolkit.
ARG BASE=python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

FROM ${BASE} AS build
# Index that holds PyTorch's builds for the target, CPU or CUDA. Empty: torch comes from pip's own index, which may mean
# a CUDA build.
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

# What both targets share.
FROM ${BASE} AS runtime
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="qshower" \
      org.opencontainers.image.description="Calorimeter showers on request" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Group 0 may write what the user may: OpenShift runs images as any user, always of group 0.
RUN useradd --uid 10001 --gid 0 --home-dir /var/lib/qshower --no-create-home --shell /usr/sbin/nologin qshower \
    && install --directory --owner=10001 --group=0 --mode=0775 /var/lib/qshower
ENV PATH=/opt/qshower/bin:${PATH} \
    HOME=/var/lib/qshower \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/qshower-kernels \
    XDG_CACHE_HOME=/tmp/qshower-cache \
    QSHOWER_QPU_STATE_FOLDER=/var/lib/qshower/qpu \
    QSHOWER_HOST=0.0.0.0 \
    QSHOWER_PORT=8000 \
    QSHOWER_LOG_FORMAT=json
USER 10001:0
WORKDIR /var/lib/qshower
# Calibrations and budgets of a QPU.
VOLUME ["/var/lib/qshower"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"QSHOWER_PORT\"]}/health/ready', timeout=4)"]
ENTRYPOINT ["qshower-start"]
CMD ["qshower", "serve"]

FROM runtime AS gpu
LABEL org.opencontainers.image.title="qshower-gpu" \
      org.opencontainers.image.description="Calorimeter showers on request, with Gibbs sampling on a GPU"
USER 0:0
# Triton compiles the launcher of its kernels with a C compiler when the service starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:0
# /tmp must allow programs to be mapped (--tmpfs /tmp:exec): Triton loads its launchers from there.
ENV TRITON_CACHE_DIR=/tmp/qshower-triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    QSHOWER_DEVICE=cuda
COPY --from=build /opt/qshower /opt/qshower

FROM runtime AS cpu
COPY --from=build /opt/qshower /opt/qshower
