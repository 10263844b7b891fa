# The web app and the HTTP API of a trained run:
#
#   docker build -t jaxdiff .
#   docker run --init -p 7860:7860 -v "$PWD/runs:/runs:ro" jaxdiff --run /runs/digits
#
# On NVIDIA GPUs: docker build --build-arg EXTRAS=app,cuda -t jaxdiff-cuda . and docker run --gpus all ...
FROM python:3.12-slim
ARG EXTRAS=app
RUN useradd --create-home --uid 1000 jaxdiff
WORKDIR /srv
COPY pyproject.toml README.md LICENSE ./
COPY jaxdiff jaxdiff
RUN pip install --no-cache-dir ".[$EXTRAS]"
USER jaxdiff
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/api/health', timeout=4)"]
ENTRYPOINT ["jaxdiff", "app", "--host", "0.0.0.0", "--port", "7860"]
CMD ["--run", "/runs/digits"]
