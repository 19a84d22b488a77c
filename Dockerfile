# docker build -t fewstep .                                        for a CPU
# docker build -t fewstep:cuda --build-arg DEVICE=cuda .           for an NVIDIA GPU; docker run --gpus all
# The torch that pip finds for Linux is a CUDA build of 3 GB, which runs on a CPU too. For the small one:
# --build-arg PIP_EXTRA_INDEX_URL=the index of CPU builds that torch's own instructions name
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG DEVICE=cpu
WORKDIR /src
RUN python -m venv /opt/fewstep
ENV PATH=/opt/fewstep/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY kernels kernels
COPY csrc csrc
COPY engine engine
ARG PIP_EXTRA_INDEX_URL
# There is no nvcc, so the CUDA attention is left out. Triton compiles its kernels where they run, which takes a gcc.
RUN case "$DEVICE" in \
        cpu) extras=serve,cpu,pipelines ;; \
        cuda) extras=serve,pipelines ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && FEWSTEP_BUILD_CUDA=0 pip install -c constraints.txt ".[$extras]" \
    && python -c "import sys, torch; '$DEVICE' == 'cpu' or torch.version.cuda or sys.exit('this torch has no CUDA')"

FROM python:${PYTHON}-slim
ARG DEVICE=cpu
RUN if [ "$DEVICE" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --create-home --uid 10001 fewstep \
    && install -d -o fewstep -g fewstep /models /cache
COPY --from=build /opt/fewstep /opt/fewstep
ENV PATH=/opt/fewstep/bin:$PATH PYTHONUNBUFFERED=1 FEWSTEP_CACHE=/cache HF_HUB_OFFLINE=1
USER 10001
WORKDIR /models
VOLUME ["/models", "/cache"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["fewstep", "serve", "--host", "0.0.0.0"]
CMD ["digits"]
