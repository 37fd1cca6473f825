# vilg on CPUs, where everything runs over gloo. From the root of a checkout:
#     docker build --file docker/cpu.Dockerfile --tag vilg:cpu .
#     docker run --rm vilg:cpu vilg plan -c fleet_configs/10b.yaml cluster.nodes=4

FROM python:3.11-slim-bookworm AS build
# The distribution's compiler, whatever its version: it leaves nothing behind but the operator.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vilg
ENV PATH=/opt/vilg/bin:$PATH
RUN pip install --no-cache-dir paddlepaddle==3.3.1
COPY setup.py pyproject.toml README.md LICENSE /build/
COPY vilg /build/vilg
RUN pip install --no-cache-dir '/build[demo]'
# Is the operator there? Without it vilg works too, slowly; an image had better not.
WORKDIR /
RUN python3 -m vilg.attention.build

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
# Volumes that are mounted here for the first time belong to whom the folders belong to.
RUN useradd --create-home --uid 1000 vilg && mkdir -p /vilg/data /vilg/runs && chown -R vilg /vilg
COPY --from=build /opt/vilg /opt/vilg
COPY docker/healthy.py /opt/vilg/healthy.py
COPY docker/fleetrun.sh /opt/vilg/bin/fleetrun
WORKDIR /vilg
COPY tools tools
COPY fleet_configs fleet_configs
ENV PATH=/opt/vilg/bin:$PATH
USER 1000
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s CMD ["python3", "/opt/vilg/healthy.py"]
CMD ["vilg", "--help"]
