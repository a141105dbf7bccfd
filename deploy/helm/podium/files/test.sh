# Checks that the service at HOST:PORT is ready and ranks two documents.
set -euo pipefail

# The first key of the file: the first word of the first line that is not a comment.
key=""
while [[ -z ${key} ]] && read -r word _; do
  [[ ${word} == "#"* ]] || key=${word}
done < <(printf '%s\n' "${KEYS:-}")

# send METHOD PATH [BODY]: prints the response's body, and fails unless the status is 200.
send() {
  local method=$1 path=$2 body=${3:-} connection status line
  exec {connection}<> "/dev/tcp/${HOST}/${PORT}"
  {
    printf '%s %s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n' "${method}" "${path}" "${HOST}"
    [[ -z ${key} ]] || printf 'authorization: Bearer %s\r\n' "${key}"
    printf 'content-type: application/json\r\ncontent-length: %d\r\n\r\n%s' "${#body}" "${body}"
  } >&"${connection}"
  read -r _ status _ <&"${connection}"
  while read -r line && [[ ${line} != $'\r' && -n ${line} ]]; do :; done <&"${connection}"
  cat <&"${connection}"
  exec {connection}>&-
  [[ ${status} == 200 ]] || { echo "${method} ${path} replied ${status}" >&2; return 1; }
}

send GET /ready
echo
response=$(send POST /v1/rerank '{"query": "how do I reset my password?", "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."]}')
echo "${response}"
[[ ${response} == *'"results":[{"index":1,'* ]] || { echo "the response does not rank document 1 first" >&2; exit 1; }
