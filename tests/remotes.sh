#!/usr/bin/env bash
# `dvc push`, loss of cache and results, `dvc pull`: with the remote `results` as a folder (the default), on S3 and over SSH.
#
#   tests/remotes.sh             all three
#   tests/remotes.sh KIND...     some of: folder s3 ssh
#
# The S3 server is moto's, the SSH server is OpenSSH's; both listen on a free port of 127.0.0.1 only and end with the script. `sensitive`
# stays the folder that .dvc/config names. Each line says what was done and what was found: no picture of a concept and no attack prompt
# may lie in `results`, and nothing may be lost while a server is out of reach. The script installs nothing; it ends with 2 if a tool is
# missing.
set -euo pipefail
[ $# -gt 0 ] || set -- folder s3 ssh
for kind in "$@"; do
    case $kind in folder | s3 | ssh) ;; *) echo "tests/remotes.sh: '$kind' is none of folder, s3, ssh" >&2; exit 1 ;; esac
done
TOP=$(cd "$(dirname "$0")/.." && pwd)
SSHD=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" type -P sshd || true)
MISSING=$(python - <<'PY'
from importlib.util import find_spec
packages = {"dvc_s3": "dvc-s3", "dvc_ssh": "dvc-ssh", "moto": "moto[server]", "flask": "moto[server]", "flask_cors": "moto[server]"}
lacking = sorted({package for module, package in packages.items() if not find_spec(module)})
print("pip install -c constraints.txt " + " ".join(f"'{package}'" for package in lacking) if lacking else "")
PY
)
[ -n "$SSHD" ] || MISSING="${MISSING:+$MISSING; }apt-get install openssh-server"
[ -z "$MISSING" ] || { echo "tests/remotes.sh lacks something: $MISSING" >&2; exit 2; }

WORK=$(mktemp -d)
. "$TOP/tests/project.sh"
SERVER="" PORT="" PRIVSEP=""
stop() { [ -z "$SERVER" ] || { kill "$SERVER" 2> /dev/null || true; wait "$SERVER" 2> /dev/null || true; }; SERVER=""; }
trap 'stop; [ -z "$PRIVSEP" ] || rmdir "$PRIVSEP"; chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM HUP
export PYTHONPATH=. OMP_NUM_THREADS=1 GIT_CONFIG_GLOBAL="$WORK/gitconfig" DVC_NO_ANALYTICS=1
export DVC_GLOBAL_CONFIG_DIR="$WORK/dvc" DVC_SYSTEM_CONFIG_DIR="$WORK/dvc" DVC_SITE_CACHE_DIR="$WORK/site" # nobody's own settings
touch "$WORK/aws"
export AWS_CONFIG_FILE="$WORK/aws" AWS_SHARED_CREDENTIALS_FILE="$WORK/aws" AWS_EC2_METADATA_DISABLED=true
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
unset SSH_AUTH_SOCK AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL
git config --global user.name remotes && git config --global user.email remotes@example.org && git config --global init.defaultBranch main

says() { # words, pattern, text
    if grep -qE "$2" <<< "$3"; then echo "ok    $1: $(cut -c1-200 <<< "$3")"; else echo "WRONG $1: nothing like '$2' in: $3"; FAILED=1; fi
}
run() { # a command, its words kept in work/said.log: its exit code
    local code=0; mkdir -p work; "$@" > work/said.log 2>&1 || code=$?; echo "$code"
}
last() { tr '\r' '\n' < work/said.log | grep -vE '^ *$|^Having any troubles' | tail -n 1; } # DVC's farewell aside
nothing_to_do() { snakemake -n 2>&1 | grep -o "Nothing to be done" || echo "something to do, or an error"; }
in_sync() { dvc status -c 2>&1 | tail -n 1; }
sums() { find "$@" -type f -not -name report.html -not -name .gitignore -exec sha256sum {} + | sort -k 2; } # what DVC does not keep aside

origin() { # one small project of 12 jobs, computed once: the unedited model, plainly asked and attacked
    project origin '{grid: {attacks: [none, cce]}, attacks: {cce: {settings: {steps: 2, batch: 1}}}}'
    check "a small project is computed, exit code" 0 "$(run snakemake --cores 2)"
    [ "$FAILED" = 0 ] || { cat work/said.log; exit 1; }
    git add -A && git commit -qm results
}

sort_out() { # the md5s of dvc.lock: private.md5 of the paths that must stay here, secret.md5 without blank files, public.md5 of all others
    python - "$WORK" <<'PY'
import json, re, sys
from pathlib import Path
import yaml


def cached(md5):
    return Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]


def blank(md5):  # a safetensors file without a tensor: what `none` learned, as an erasure and as an attack
    content = cached(md5).read_bytes()
    return content[8:].strip() == b"{}" or content[8:].startswith(b'{"__metadata__"') and b"data_offsets" not in content


private, public, seen = set(), set(), ""
for stage in yaml.safe_load(Path("dvc.lock").read_text())["stages"].values():
    for out in stage.get("outs", []):
        path, md5 = out["path"], out["md5"]
        if path.endswith("metrics.json"):
            continue  # in git
        picture = path.endswith("/images") and not path.startswith("results/reference/")
        prompt = "/attacks/" in path and path.endswith((".json", ".safetensors")) and not path.endswith(".cost.json")
        prompt |= "/images/" in path and path.endswith("manifest.json") or path.endswith(".found.safetensors")
        home = private if picture or prompt else public
        home.add(md5)
        seen += f"{path} " if home is private else ""
        if md5.endswith(".dir"):
            home |= {file["md5"] for file in json.loads(cached(md5).read_text())}
        assert re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5), md5
for kind in "/pool/.*/images ", "/pairs/.*/images ", "/none/images/.*/cce/images ", "/none/images/.*/cce/manifest.json ", "/cce.json ", "/cce.safetensors ":
    assert re.search(kind, seen), f"nothing private like {kind}"
secret = private - {md5 for md5 in private & public if blank(md5)}
for name, md5s in ("private", private), ("public", public), ("secret", secret):
    (Path(sys.argv[1]) / f"{name}.md5").write_text("".join(f"{md5}\n" for md5 in sorted(md5s)))
PY
}

await() { # until the server answers on its port
    for _ in $(seq 100); do
        (exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2> /dev/null && return
        kill -0 "$SERVER" 2> /dev/null || break
        sleep 0.3
    done
    echo "WRONG the server did not start: $(tail -n 3 "$WORK/server.log")"; exit 1
}
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

serve_folder() { :; }
settings_folder() { :; }
objects_folder() { (cd .dvc/remotes/results && find . -type f -not -path '*/tmp/*'); }

serve_s3() {
    PYTHONPATH='' python -m moto.server -H 127.0.0.1 -p "$PORT" > "$WORK/server.log" 2>&1 & SERVER=$!
    await
    s3 "client.create_bucket(Bucket='lab')"
}
s3() { # one line of Python with the bucket's client
    PYTHONPATH='' python -c "import boto3
client = boto3.client('s3', endpoint_url='http://127.0.0.1:$PORT', region_name='us-east-1',
                      aws_access_key_id='somebody', aws_secret_access_key='a-secret')
$1"
}
settings_s3() {
    dvc remote modify -q results url s3://lab/palimpsest
    dvc remote modify -q results endpointurl "http://127.0.0.1:$PORT"
    dvc remote modify -q --local results access_key_id somebody
    dvc remote modify -q --local results secret_access_key a-secret
}
objects_s3() { s3 "for page in client.get_paginator('list_objects_v2').paginate(Bucket='lab'):
    for one in page.get('Contents', []): print(one['Key'])"; }

serve_ssh() {
    if [ ! -f "$WORK/ssh/sshd_config" ]; then
        mkdir "$WORK/ssh" "$WORK/ssh/data"
        ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/host"; ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/key"
        printf '%s\n' "ListenAddress 127.0.0.1:$PORT" "HostKey $WORK/ssh/host" "AuthorizedKeysFile $WORK/ssh/key.pub" "PidFile none" \
            "Subsystem sftp internal-sftp" "StrictModes no" "UsePAM no" "PasswordAuthentication no" "KbdInteractiveAuthentication no" \
            "PermitRootLogin prohibit-password" > "$WORK/ssh/sshd_config"
    fi
    if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ]; then mkdir -m 755 /run/sshd; PRIVSEP=/run/sshd; fi # as root, sshd asks for this folder
    "$SSHD" -D -e -f "$WORK/ssh/sshd_config" > "$WORK/server.log" 2>&1 & SERVER=$!
    await
}
settings_ssh() {
    dvc remote modify -q results url "ssh://127.0.0.1:$PORT$WORK/ssh/data"
    dvc remote modify -q --local results user "$(id -un)"
    dvc remote modify -q --local results keyfile "$WORK/ssh/key"
}
objects_ssh() { (cd "$WORK/ssh/data" && find . -type f); }

found() { # the md5s on a remote, out of its list of objects: .../files/md5/ab/cdef
    sed -nE 's|.*files/md5/([0-9a-f]{2})/([0-9a-f]{30}(\.dir)?)$|\1\2|p' | sort
}
amount() { wc -l < "$1" | tr -d ' '; }

play() { # folder, s3 or ssh
    local kind=$1 before cached code
    cd "$WORK/origin"; git checkout -q .; rm -rf .dvc/remotes .dvc/config.local "$WORK/site"
    before=$(sums results) cached=$(sums .dvc/cache)
    PORT=$(free_port)
    "serve_$kind"; "settings_$kind"
    if [ -n "$SERVER" ]; then
        check "$kind: what git sees of the settings, and credentials in it" ".dvc/config 0" \
            "$(git status --porcelain -uall | cut -c 4- | xargs) $(grep -cE "a-secret|somebody|key|user" .dvc/config || true)"
        stop
        code=$(run timeout 300 dvc push)
        check "$kind, out of reach: dvc push fails" yes "$([ "$code" != 0 ] && [ "$code" != 124 ] && echo yes || echo "exit code $code")"
        says "$kind, out of reach: its last line (exit code $code)" "^ERROR: " "$(last)"
        check "$kind, out of reach: changed or lost in the results and the cache" 0 \
            "$(diff <(sums results .dvc/cache) <(sort -k 2 <<< "$before"$'\n'"$cached") | wc -l)"
        "serve_$kind"
    fi
    check "$kind: dvc push, exit code" 0 "$(run dvc push)"
    "objects_$kind" | found > "$WORK/shared.md5"
    check "$kind: pictures of a concept and attack prompts in \`results\`, of $(amount "$WORK/secret.md5") objects" 0 \
        "$(comm -12 "$WORK/secret.md5" "$WORK/shared.md5" | wc -l)"
    check "$kind: everything else is there and nothing more, objects" "$(amount "$WORK/public.md5")" "$(amount "$WORK/shared.md5")"
    check "$kind: and they are the same ones, differences" 0 "$(comm -3 "$WORK/public.md5" "$WORK/shared.md5" | wc -l)"
    check "$kind: the folder \`sensitive\` holds the others, differences" 0 \
        "$( (cd .dvc/remotes/sensitive && find . -type f) | found | comm -3 "$WORK/private.md5" - | wc -l)"
    check "$kind: dvc status -c" "Cache and remote 'results' are in sync." "$(in_sync)"

    chmod -R u+w .dvc/cache; rm -rf .dvc/cache .dvc/tmp results work/hashes.json work/plans .snakemake "$WORK/site"; git checkout -q results
    check "$kind: cache and results wiped, files left that git does not keep" 0 "$(git ls-files -o results .dvc/cache | wc -l)"
    check "$kind: dvc pull, exit code" 0 "$(run dvc pull)"
    check "$kind: files that differ from before" 0 "$(diff <(echo "$before") <(sums results) | wc -l)"
    check "$kind: snakemake -n" "Nothing to be done" "$(nothing_to_do)"
    check "$kind: dvc status" "Data and pipelines are up to date." "$(dvc status 2>&1 | tail -n 1)"
    check "$kind: dvc status -c" "Cache and remote 'results' are in sync." "$(in_sync)"
    stop
}

origin
sort_out
for kind in "$@"; do play "$kind"; done
[ "$FAILED" = 0 ] && echo "the remotes hold"
exit "$FAILED"
