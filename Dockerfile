# propfan as a container: the daemon, the control plane, the connector service.
#   docker build -t propfan .
#   docker build -t propfan --build-arg EXTRAS=connectors,openai,slurm .
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG EXTRAS=connectors,postgresql,tracing
RUN --mount=from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/propfan-*.whl)[${EXTRAS}]"
# As the printed manifests run it; nothing below the root is written to.
USER 65532:65532
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["propfan"]
CMD ["serve", "--config", "/etc/propfan/config.yaml"]
