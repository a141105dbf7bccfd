#!/usr/bin/env bash
# Checks the files in this folder with the tools that this machine has, and says which it has not.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

scratch=$(mktemp -d)
trap 'rm -rf "${scratch}"' EXIT
failed=0 missing=()

# check NAME TOOL COMMAND...: runs the command if the tool is there; shows its output if it fails.
check() {
  local name=$1 tool=$2
  shift 2
  command -v "${tool}" > /dev/null || { missing+=("${tool}"); return; }
  if "$@" > "${scratch}/output" 2>&1; then
    echo "ok      ${name}"
  else
    echo "FAILED  ${name}"
    cat "${scratch}/output"
    failed=1
  fi
}

# render VALUES: the chart with these values, into the scratch folder.
render() {
  helm template podium helm/podium --namespace search --values "$1" > "${scratch}/manifests.yaml"
}

# The proxies' files with a certificate that exists.
proxies() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=rerank.example.com \
    -keyout "${scratch}/rerank.key" -out "${scratch}/rerank.crt" 2> /dev/null
  cat "${scratch}/rerank.crt" "${scratch}/rerank.key" > "${scratch}/rerank.pem"
  local file
  for file in nginx.conf haproxy.cfg envoy.yaml; do
    sed -E "s#/etc/[a-z]+/tls#${scratch}#" "balancers/${file}" > "${scratch}/${file}"
  done
}

check "alert rules" promtool promtool check rules alerts.yml
check "tests of the alert rules" promtool promtool test rules alerts.test.yml
check "compose/prometheus.yml" promtool promtool check config --syntax-only compose/prometheus.yml
# The oldest Kubernetes that the chart says it installs on.
oldest=$(sed -nE 's/^kubeVersion: ">=([0-9]+\.[0-9]+).*/\1/p' helm/podium/Chart.yaml)
check "chart" helm helm lint --strict helm/podium
for values in helm/podium/values.yaml helm/podium/ci/*.yaml; do
  check "chart with ${values}" helm render "${values}"
  if [[ -s ${scratch}/manifests.yaml ]]; then
    check "its manifests, newest Kubernetes" kubernetes-validate kubernetes-validate --strict --no-warn "${scratch}/manifests.yaml"
    check "its manifests, Kubernetes ${oldest}" kubernetes-validate kubernetes-validate --strict --no-warn -k "${oldest}" "${scratch}/manifests.yaml"
  fi
done
if command -v openssl > /dev/null; then
  proxies
  check "nginx.conf" nginx nginx -t -c "${scratch}/nginx.conf"
  check "haproxy.cfg" haproxy haproxy -c -f "${scratch}/haproxy.cfg"
  check "envoy.yaml" envoy envoy --mode validate -c "${scratch}/envoy.yaml"
fi
sed 's#/usr/local/bin/podium#/bin/true#' systemd/podium.service > "${scratch}/podium.service"
check "podium.service" systemd-analyze systemd-analyze verify "${scratch}/podium.service"
check "scripts" shellcheck shellcheck --shell=bash --exclude=SC2317 check.sh helm/podium/files/test.sh
[[ ${#missing[@]} == 0 ]] || printf 'not here: %s\n' "$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
exit "${failed}"
