# vilg on NVIDIA GPUs, with the operator's kernels for sm_80 and sm_90a. Not run: nothing here has had a GPU and Paddle
# together. From the root of a checkout:
#     docker build --file docker/gpu.Dockerfile --tag vilg:gpu .
#     docker run --rm --stop-timeout 120 --gpus all --ipc host --ulimit memlock=-1 --network host --volume /data:/vilg/data \
#         --volume /runs:/vilg/runs vilg:gpu fleetrun tools/pretrain.py -c fleet_configs/10b.yaml

FROM nvidia/cuda:12.6.3-devel-ubuntu22.04 AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vilg
ENV PATH=/opt/vilg/bin:$PATH
# Paddle for GPUs has an index of its own, by CUDA version; CUDA's libraries, cuDNN and NCCL come with it.
RUN pip install --no-cache-dir paddlepaddle-gpu==3.3.1 \
    --index-url https://www.paddlepaddle.org.cn/packages/stable/cu126/
COPY setup.py pyproject.toml README.md LICENSE /build/
COPY vilg /build/vilg
RUN pip install --no-cache-dir /build
# Is the operator there, with its kernels for GPUs? Without it vilg works too, slowly; an image had better not.
WORKDIR /
RUN python3 -c "from vilg.attention import build; assert build.has_gpu_kernels(), 'no kernels for GPUs'"

FROM nvidia/cuda:12.6.3-base-ubuntu22.04
# The last two let NCCL use InfiniBand.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 python3 libibverbs1 ibverbs-providers \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 vilg && mkdir -p /vilg/data /vilg/runs && chown -R vilg /vilg
COPY --from=build /opt/vilg /opt/vilg
COPY docker/healthy.py /opt/vilg/healthy.py
COPY docker/fleetrun.sh /opt/vilg/bin/fleetrun
WORKDIR /vilg
COPY tools tools
COPY fleet_configs fleet_configs
ENV PATH=/opt/vilg/bin:$PATH
USER 1000
HEALTHCHECK --interval=60s --timeout=30s --start-period=600s CMD ["python3", "/opt/vilg/healthy.py"]
CMD ["vilg", "--help"]
