# syntax=docker/dockerfile:1
# Podium in a container, for a GPU unless told otherwise:
#
#   docker build -t podium .                                   CUDA, compute capability 8.0
#   docker build -t podium --build-arg CUDA_COMPUTE_CAP=90 .   H100, H200
#   docker build -t podium:cpu --build-arg DEVICE=cpu .        no GPU
#
#   docker run --gpus all -p 8080:8080 -v podium-models:/models podium
#
# The CUDA image needs the driver of the machine even for --version (--gpus brings its libcuda.so.1), and CUDA 13 a driver
# from 580 on.
#
# Settings are environment variables (PODIUM__SECTION__KEY) or flags after the image's name.

# cuda or cpu: which of the two pairs of stages below is used.
ARG DEVICE=cuda
ARG CUDA_VERSION=13.0.2
ARG RUST_VERSION=1.95
ARG UBUNTU_VERSION=24.04

FROM rust:${RUST_VERSION}-slim-bookworm AS rust

# --- where it is built ------------------------------------------------------------------------------
FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION} AS build-cuda
# The compute capability that the kernels are compiled for: 80 A100, 86 A10 and RTX 30, 89 L4 and RTX 40, 90 H100 and
# H200, 120 RTX 50. 80 runs on all of 8.x, and not on 9.0; on a GPU that it does not fit Podium refuses to start.
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} \
    FEATURES=cuda,flash-attn

FROM ubuntu:${UBUNTU_VERSION} AS build-cpu
ENV FEATURES=""

# hadolint ignore=DL3006
FROM build-${DEVICE} AS build
ARG DEVICE
ARG CUDA_VERSION
# For example x86-64-v3: faster on the CPU, and the image then runs on no older one.
ARG TARGET_CPU=""
# git fetches the headers that FlashAttention's kernels are compiled with.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates git pkg-config \
 && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:${PATH}
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.cudaforge \
    --mount=type=cache,target=/src/target,id=podium-target-${DEVICE}-${CUDA_VERSION} \
    RUSTFLAGS="${TARGET_CPU:+-C target-cpu=${TARGET_CPU}}" \
    cargo build --locked --profile dist --bin podium --features "${FEATURES}" \
 && cp target/dist/podium /usr/local/bin/podium

# --- where it runs ----------------------------------------------------------------------------------
FROM nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu${UBUNTU_VERSION} AS run-cuda

FROM ubuntu:${UBUNTU_VERSION} AS run-cpu

# hadolint ignore=DL3006
FROM run-${DEVICE}
LABEL org.opencontainers.image.title="Podium" \
      org.opencontainers.image.description="A rerank server that reads a query, an instruction and up to 64 documents in one pass" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin podium \
 && install -d -o podium -g podium /models
COPY --from=build /usr/local/bin/podium /usr/local/bin/podium
COPY LICENSE /usr/share/doc/podium/LICENSE
# Models from the hub are kept here; without the volume they are fetched again by each container.
ENV HF_HOME=/models \
    PODIUM__SERVER__LISTEN=0.0.0.0:8080
VOLUME ["/models"]
USER 10001:10001
WORKDIR /home/podium
EXPOSE 8080
STOPSIGNAL SIGTERM
# Loading a large model takes a while: failures in the start period do not count. Whoever changes the port does it with
# the variable above rather than with --listen, so that this still finds it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PODIUM__SERVER__LISTEN##*:} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [[ $status == 200 ]]"]
ENTRYPOINT ["podium"]
CMD ["serve"]
