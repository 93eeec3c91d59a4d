#!/usr/bin/env bash
# The contract between Snakemake, DVC and the disk, played in throw-away clones of one small project with folder remotes.
#
#   tests/contract.sh            all of it: `make contract`
#   tests/contract.sh short      what `make test` plays
#   tests/contract.sh CASE...    some cases: pull_then_nothing exact tables_only branches cut_off bare parts dvc_first failures killed
#                                experiments disk mishaps
#
# Each line says what was done, how many jobs were expected to be planned or computed, and how many were. A clone has 14 jobs:
# prompts, pool, pairs, reference, and for each of none and uce: erase, attack, generate, score, table.
set -euo pipefail
TOP=$(cd "$(dirname "$0")/.." && pwd)
WORK=$(mktemp -d)
. "$TOP/tests/project.sh"
trap 'umount "$WORK/full/results" 2> /dev/null || true; chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
export PYTHONPATH=. OMP_NUM_THREADS=1 GIT_CONFIG_GLOBAL="$WORK/gitconfig" DVC_NO_ANALYTICS=1
git config --global user.name contract && git config --global user.email contract@example.org && git config --global init.defaultBranch main

says() { # words, pattern, text
    if grep -qE "$2" <<<"$3"; then echo "ok    $1: $(grep -E -m1 "$2" <<<"$3" | cut -c1-160)"; else echo "WRONG $1: nothing like '$2' in: $(tail -n 5 <<<"$3")"; FAILED=1; fi
}
planned() { # jobs that a dry run wants, `all` aside
    local said; mkdir -p work
    said=$(snakemake -n "$@" 2>&1 | tee work/said.log) || { echo "failed: $(tail -n 1 <<<"$said")"; return; }
    grep -q "Nothing to be done" <<<"$said" && { echo 0; return; }
    awk '$1 == "total" { total = $2 } $1 == "all" && NF == 2 { all = $2 } END { print total - all }' <<<"$said"
}
computed() { # jobs that really computed something in a run that is made now
    rm -rf logs; mkdir -p work; snakemake --cores 2 "$@" 2>&1 | tee work/said.log > work/run.log || { echo "failed: $(tail -n 1 work/run.log)"; return; }
    { [ -d logs ] && find logs -name '*.log' -exec grep -L '^kept:' {} + || true; } | wc -l
}
stale() { snakemake -n "$@" 2>&1 | sed -n 's/^stale: \([^ ]*@[^ ]*\): .*/\1/p' | sort | tr '\n' ' '; }              # by Snakemake, first level
status() { dvc status --json | python -c 'import json,sys; print("".join(n + " " for n in sorted(json.load(sys.stdin)) if n != "plan"), end="")'; } # by DVC
edit() { python - "$@" <<'PY'
import sys
from pathlib import Path
file, old, new = Path(sys.argv[1]), sys.argv[2].encode().decode("unicode_escape"), sys.argv[3].encode().decode("unicode_escape")
text = file.read_text()
assert old in text, f"{old!r} is not in {file}"
file.write_text(text.replace(old, new, 1))
PY
}
sums() { find results -type f -not -name '*.part' -not -path '*/plan/*' -not -name '*cost*' -not -path '*/costs/*' -not -name table.csv \
    -not -name metrics.json -not -name report.html -not -name .gitignore -exec sha256sum {} + | sort -k 2; }
clone() { # name, link type: a clone with everything pulled
    cd "$WORK"; rm -rf "${WORK:?}/$1"; git clone -q "$WORK/origin" "$WORK/$1"; cd "$WORK/$1"
    mkdir -p work; dvc config --local cache.type "$2"; dvc config --local 'remote.results.url' "$WORK/remotes/results"
    dvc config --local 'remote.sensitive.url' "$WORK/remotes/sensitive"
}
pulled() { clone "$@"; dvc pull -q; }

origin() {
    project origin '{grid: {methods: [none, uce]}, attacks: {cce: {settings: {steps: 400, batch: 2}}}}'
    dvc config --local 'remote.results.url' "$WORK/remotes/results"; dvc config --local 'remote.sensitive.url' "$WORK/remotes/sensitive"
    check "a first run computes everything" 14 "$(computed)"
    check "dvc status behind it" "" "$(status)"
    check "snakemake -n behind it" 0 "$(planned)"
    git add -A && git commit -qm results
    check "dvc.lock is written as DVC writes it" "" "$(python - <<'PY' | diff - dvc.lock
import sys
from pathlib import Path
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update
sys.stdout.write(dumps_yaml(parse_yaml_for_update(Path("dvc.lock").read_text(), "dvc.lock")))
PY
)"
    dvc push -q
    check "dvc push sent all" "Cache and remote 'results' are in sync." "$(dvc status -c | tail -n 1)"
}

pull_then_nothing() {
    for link in ${1:-copy hardlink symlink}; do
        pulled "pulled-$link" "$link"
        check "pull ($link), snakemake -n" 0 "$(planned)"
        check "pull ($link), dvc status" "" "$(status)"
        check "pull ($link), dvc repro computes" 0 "$(dvc repro 2>&1 | grep -c '^Running stage' || true)"
        edit params.yaml "preserve_scale: 0.03" "preserve_scale: 0.04"
        check "pull ($link), one setting changed" 5 "$(planned)"
        git checkout -q params.yaml
        check "pull ($link), changed back" 0 "$(planned)"
    done
}

exact() {
    pulled exact copy
    find . -path ./.git -prune -o -type f -exec touch {} +
    check "every file touched" 0 "$(planned)"
    { echo "# a remark"; cat params.yaml; } > work/with && mv work/with params.yaml
    edit palimpsest/diffusion.py 'from __future__' '# a remark\nfrom __future__'
    edit palimpsest/diffusion.py '"""' '"""More words. '
    check "a remark and a docstring, snakemake -n" 0 "$(planned)"
    check "a remark and a docstring, dvc status" "" "$(status)"
    git checkout -q .
    edit params.yaml "preserve_scale: 0.03" "preserve_scale: 0.04"
    says "why: the key and both values" "settings.preserve_scale: 0.03 -> 0.04" "$(snakemake -n 2>&1)"
    check "both engines name the same stage" "$(stale)" "$(status)"
    git checkout -q .
    edit palimpsest/attacks/none.py "return " "0\n    return "
    says "why: the file" "palimpsest/attacks/none.py changed" "$(snakemake -n 2>&1)"
    check "an attack's code: attack, generate, score, two tables" 8 "$(planned)"
    check "both engines name the same stages" "$(stale)" "$(status)"
    git commit -qam "a change that changes nothing"
    python scripts/accept.py palimpsest/attacks/none.py HEAD~1 "an expression without effect" > /dev/null
    check "the same, accepted" 0 "$(planned)"
    check "the same, accepted, dvc status" "" "$(status)"
    git checkout -q . && git reset -q --hard HEAD~1
    edit data/concepts/church.yaml "words: [church]" "words: [church, chapel]"
    check "a concept's words: prompts and all that follows" 13 "$(planned)"
    git checkout -q .
    edit data/concepts/church.yaml "threshold: 0.5" "threshold: 0.6"
    check "a threshold: two tables" 2 "$(planned)"
    git checkout -q .
    edit params.yaml "resources:" "resources:\n  generate: {parts: 3}\n  gen_image_pool: {parts: 2}\n  sdedit_pairs: {parts: 2}"
    check "in how many parts, which changes no result" 0 "$(planned)"
    check "were all made anew: 14 jobs and 10 parts" 24 "$(planned -F)"
    git checkout -q .
    edit params.yaml "batch: 4" "batch: 2"
    check "the batch, which changes no more than rounding" 0 "$(planned)"
    git checkout -q .
    check "everything as it was" 0 "$(planned)"
}

tables_only() {
    clone tables copy
    dvc pull -q results/church/uce/table.csv results/church/none/table.csv
    check "only tables pulled" 0 "$(planned)"
    check "nothing else is here" 0 "$(find results -name '*.png' | wc -l)"
}

branches() {
    pulled branch copy
    git checkout -qb other; edit params.yaml "preserve_scale: 0.03" "preserve_scale: 0.04"
    check "a branch with another setting computes" 5 "$(computed)"
    check "dvc status on it" "" "$(status)"
    git add -A; git commit -qm other; git checkout -q main
    check "back on main without dvc checkout" 5 "$(planned)"
    check "and run: all of it is known" 0 "$(computed)"
    check "dvc status" "" "$(status)"
    git checkout -q other; dvc checkout -q
    check "the branch, with dvc checkout" 0 "$(planned)"
}

cut_off() {
    pulled cut copy
    edit scripts/gen_prompts.py "def main" "NOTHING = 0\n\n\ndef main"
    check "code of gen_prompts changed, snakemake -n" 13 "$(planned)"
    check "it alone computes, its result is the same" 1 "$(computed)"
    check "dvc status" "" "$(status)"
    check "-F computes in any case" 14 "$(computed -F)"
}

bare() {
    clone bare copy
    check "a bare clone with its dvc.lock computes" 14 "$(computed)"
    check "and has all of it in lock and cache" "" "$(status)"
}

parts() {
    pulled parts copy
    edit params.yaml "resources:" "resources:\n  generate: {parts: 3}\n  gen_image_pool: {parts: 2}\n  sdedit_pairs: {parts: 2}"
    check "in how many parts, which changes no result" 0 "$(planned)"
    check "all of it computed again, in 10 parts and 14 jobs" 24 "$(computed -F)"
    check "the same pictures, prompts and weights" "" "$(diff <(sums) <(cd "$WORK/origin" && sums))"
    check "dvc status" "" "$(status)"
    check "snakemake -n" 0 "$(planned)"
    cat > palimpsest/attacks/each.py <<'PY'
"""An attack for this check: a word for each prompt by itself, learned in a few steps."""
import torch
from palimpsest import diffusion, pieces, tokens
from palimpsest.data import Prompts
def attack(model, concept, images, *, original, plain, seed, at_once: int = 3) -> Prompts:
    def ask(some):
        found = []
        for row in some.rows:
            draws, name = torch.Generator().manual_seed(row.seed), f"word{row.seed}"
            loss = lambda words: diffusion.encode(model, [f"<{name}>"], words).pow(2).mean() + torch.rand(1, generator=draws)[0]
            words, log = tokens.invert(model, loss, {name: tokens.vector(model, "church")}, steps=4, lr=0.1, generator=draws)
            found.append(Prompts([row._replace(text=f"<{name}>")], words, log))
        return pieces.together(found)
    return pieces.by_prompt(plain, at_once, ask)
PY
    edit params.yaml "attacks:\n  none: {}" "attacks:\n  none: {}\n  each: {}"
    check "an attack by prompt, whole" 1 "$(computed results/church/none/attacks/mini-s0/each.json)"
    cp results/church/none/attacks/mini-s0/each.{json,safetensors} work/
    edit params.yaml "resources:" "resources:\n  attack_each: {parts: 3}"
    check "the same in three parts" 4 "$(computed -f results/church/none/attacks/mini-s0/each.json)"
    check "it found the same" "" "$(for kind in json safetensors; do cmp results/church/none/attacks/mini-s0/each.$kind work/each.$kind; done)"
    check "no scratch is left" 0 "$(find work -path "work/attack/*" -o -path "work/generate/*" -o -path "work/parts/*/*" | wc -l)"
}

dvc_first() {
    clone repro copy
    dvc repro -q > work/repro.log 2>&1
    check "dvc repro on a bare clone, then snakemake -n" 0 "$(planned)"
    check "dvc status" "" "$(status)"
    check "the same bytes by both engines" "" "$(diff <(sums) <(cd "$WORK/origin" && sums))"
}

failures() {
    pulled fail copy
    edit params.yaml "methods:\n  - none\n  - uce" "methods:\n  - none\n  - uce\n  - esd"
    edit palimpsest/methods/esd.py "def erase(" "def broken(" && edit palimpsest/methods/esd.py '"""' '"""Never mind. '
    snakemake --cores 2 --keep-going > work/run.log 2>&1 && check "a broken method fails" "failed" "went well"
    check "what did not need it is recorded, it is not" "erase@church-esd-mini-0 " "$(status | grep -o 'erase@[^ ]* ')"
    git checkout -q . && dvc checkout -q
    check "everything as it was" 0 "$(planned)"
}

killed() {
    for round in $(seq 10); do
        clone killed copy
        snakemake --cores 2 > work/run.log 2>&1 & victim=$!
        sleep "$(python -c "import random; print(random.uniform(3, 40))")"
        kill -9 "$victim" 2> /dev/null; pkill -9 -P "$victim" 2> /dev/null || true; wait "$victim" 2> /dev/null || true
        snakemake --cores 2 > work/run.log 2>&1 || true
        check "kill -9, round $round, then a run: the same bytes" "" "$(diff <(sums) <(cd "$WORK/origin" && sums) | head -n 3)"
        check "kill -9, round $round: dvc status" "" "$(status)"
    done
    clone killed copy
    for round in 1 2 3; do
        setsid dvc repro > work/repro.log 2>&1 & victim=$!
        sleep "$(python -c "import random; print(random.uniform(3, 20))")"
        kill -9 -- "-$victim" 2> /dev/null || true; wait "$victim" 2> /dev/null || true
    done
    dvc repro -q > work/repro.log 2>&1 || true
    check "kill -9 of dvc repro, three times, then dvc repro: the same bytes" "" "$(diff <(sums) <(cd "$WORK/origin" && sums) | head -n 3)"
    check "dvc status" "" "$(status)"
    check "snakemake -n" 0 "$(planned)"
}

experiments() {
    pulled experiment copy
    check "dvc exp run computes what follows from a setting" 5 \
        "$(dvc exp run -n scale -S methods.uce.settings.preserve_scale=0.05 2>&1 | grep '^Running stage' | grep -vc "'plan'")"
    check "snakemake -n behind it" 0 "$(planned)"
    says "dvc metrics diff" "uce.mini-s0.CLIP-Score" "$(dvc metrics diff main)"
    dvc plots diff main -o work/plots > work/plots.log
    check "dvc plots diff: bars of both" "main scale" "$(python - <<'PY'
import json, re
from pathlib import Path
plots = [json.loads(text) for text in re.findall(r"var spec = (\{.*?\});\n", Path("work/plots/index.html").read_text(), re.S)]
rows = [row for plot in plots for row in plot["data"]["values"] if row["method"] == "uce" and float(row["Ratio"]) >= 0]
bars = [plot for plot in plots if "bar" in json.dumps(plot)]
print("main" if bars and any(row["rev"] == "main" for row in rows) else "", "scale" if any(row["rev"] == "workspace" for row in rows) else "")
PY
)"
    git checkout -q . && dvc checkout -q
    check "back" 0 "$(planned)"
    for scale in 0.07 0.09; do dvc exp run --queue -n "scale-$scale" -S "methods.uce.settings.preserve_scale=$scale" > work/queue.log; done
    dvc exp run --run-all > work/queue.log 2>&1 || true
    check "two from the queue, side by side with the workspace" "scale scale-0.07 scale-0.09" "$(dvc exp show --json | python -c '
import json, sys
base = next(row for row in json.load(sys.stdin) if row["rev"] != "workspace")
print(*sorted(one["name"] for row in base["experiments"] for one in row["revs"] if one["data"]["metrics"]["results/church/uce/metrics.json"]["data"]["uce"]))')"
    check "the workspace is as it was" 0 "$(planned)"
    dvc exp apply scale-0.07 > work/apply.log 2>&1
    check "one applied: known to Snakemake too" 0 "$(planned)"
}

disk() {
    pulled full copy
    edit params.yaml "preserve_scale: 0.03" "preserve_scale: 0.04"
    if [ "$(id -u)" = 0 ]; then
        cp -a results work/results && mount -t tmpfs -o size=$(( $(du -sk results | cut -f 1) + 16 ))k tmpfs results && cp -a work/results/. results/
        head -c 1G /dev/zero > results/ballast 2> /dev/null || true
        says "a full disk" "palimpsest: the disk is full; make room and start again" "$(snakemake --cores 2 2>&1 || true)"
        rm -r work/results results/ballast; cp -a results work/results && umount results && rm -r results && mv work/results results
        check "with room again, what was to be done is done" 5 "$(computed)"
        check "dvc status" "" "$(status)"
    else
        echo "-     a full disk: needs root, to mount a small one"
    fi
    edit params.yaml "preserve_scale: 0.04" "preserve_scale: 0.06"
    chmod -R a-w .dvc/cache
    local run=(snakemake --cores 2); [ "$(id -u)" != 0 ] || run=(setpriv --bounding-set=-dac_override --inh-caps=-dac_override "${run[@]}")
    says "a cache that cannot be written" "palimpsest: results are there, but not yet in dvc.lock: .*record.py" "$("${run[@]}" 2>&1)"
    chmod -R u+w .dvc/cache
    check "writable again: everything is there, and recorded" "0 " "$(computed) $(status)"
    local file=results/church/uce/adapters/mini-s0.json hash
    hash=$(md5sum "$file" | cut -c 1-32); rm -f "$file" ".dvc/cache/files/md5/${hash:0:2}/${hash:2}" "work/kept/$hash"
    check "a file and its object in the cache are gone: made again" 1 "$(computed "$file")"
    computed > work/rest.log # it took another time, which the table says
    check "dvc status" "" "$(status)"
    dvc config --local remote.results.url ssh://127.0.0.1:1/nowhere
    edit params.yaml "preserve_scale: 0.06" "preserve_scale: 0.08"
    check "a remote out of reach does not matter to a run" 5 "$(computed)"
    says "dvc push then says so" "^ERROR: " "$(dvc push 2>&1 || true)"
}

mishaps() {
    pulled mishap copy
    echo '{"edited": true}' > results/church/uce/adapters/mini-s0.json
    says "an output edited by hand" "edited by hand.*adapters/mini-s0.json.*dvc checkout" "$(snakemake --cores 2 2>&1 || true)"
    check "it was not touched" '{"edited": true}' "$(cat results/church/uce/adapters/mini-s0.json)"
    dvc checkout -q -f results/church/uce/adapters/mini-s0.json
    check "dvc checkout, then" 0 "$(planned)"
    rm results/church/uce/adapters/mini-s0.{json,safetensors}
    check "outputs deleted by hand, asked for, come back from the cache" 0 "$(computed results/church/uce/adapters/mini-s0.json)"
    check "dvc status" "" "$(status)"
    rm -r results/church/uce/images/mini-s0/none/images
    says "pictures deleted by hand" "gone:.*images is not here.*dvc checkout" "$(snakemake -n 2>&1)"
    dvc checkout -q
    says "--config goes round dvc.lock" "palimpsest: --config.*params.yaml" "$(snakemake --cores 1 --config pool='{images: 5}' 2>&1 || true)"
    snakemake --cores 1 -F results/church/uce/table.csv > work/first.log 2>&1 & first=$!
    sleep 8
    says "two snakemakes in one folder" "palimpsest: another snakemake is at work" "$(snakemake --cores 1 2>&1 || true)"
    kill -INT "$first"; wait "$first" || true
    git checkout -q .; dvc checkout -q -f
    printf '<<<<<<< HEAD\n=======\n>>>>>>> other\n' >> dvc.lock
    says "dvc.lock with a merge conflict" "palimpsest: dvc.lock cannot be read.*git checkout" "$(snakemake -n 2>&1 || true)"
    git checkout -q dvc.lock
    edit params.yaml "preserve_scale" "preserve_scales"
    says "a typo in params.yaml" "palimpsest: params.yaml.*did you mean 'preserve_scale'" "$(snakemake -n 2>&1 || true)"
    git checkout -q params.yaml
    check "everything as it was" 0 "$(planned)"
}

origin
case "${1:-all}" in
    short) pull_then_nothing hardlink; exact; tables_only ;;
    all) pull_then_nothing; exact; tables_only; branches; cut_off; bare; parts; dvc_first; failures; killed; experiments; disk; mishaps ;;
    *) for name in "$@"; do "$name"; done ;;
esac
[ "$FAILED" = 0 ] && echo "the contract holds"
exit "$FAILED"
