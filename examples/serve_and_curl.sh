#!/bin/sh
# Starts a server with the digits in the box, draws a seven with curl, and stops the server.
#
#   examples/serve_and_curl.sh [out/curl.png]      PORT=8000 is where it listens
set -eu
out=${1:-out/curl.png}
url=http://127.0.0.1:${PORT:-8000}

fewstep serve digits --port "${PORT:-8000}" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server"' EXIT

until curl -sf "$url/ready" >/dev/null; do # it listens at once, and is ready when the models are
    kill -0 "$server" || exit 1
    sleep 0.2
done

mkdir -p "$(dirname "$out")"
curl -sf "$url/v1/images/generations" -H 'Content-Type: application/json' -H 'Accept: image/png' \
    -d '{"model": "digits", "prompt": "7", "seed": 1}' -o "$out"
echo "$out"
