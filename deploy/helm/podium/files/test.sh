# Asks the service at HOST:PORT whether it is ready and to rank two documents; fails if either goes wrong.
set -euo pipefail

# The first key of the file: the first word of the first line that is no comment.
key=""
while [[ -z ${key} ]] && read -r word _; do
  [[ ${word} == "#"* ]] || key=${word}
done < <(printf '%s\n' "${KEYS:-}")

# ask METHOD PATH [BODY]: prints the answer's body, and fails unless the status is 200.
ask() {
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
  [[ ${status} == 200 ]] || { echo "${method} ${path} answered ${status}" >&2; return 1; }
}

ask GET /ready
echo
answer=$(ask POST /v1/rerank '{"query": "how do I reset my password?", "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."]}')
echo "${answer}"
[[ ${answer} == *'"results":[{"index":1,'* ]] || { echo "the answer does not begin with document 1" >&2; exit 1; }
