# What the scripts of checks share; sourced by them, with TOP and WORK set.
FAILED=0

check() { # words, expected, found
    if [ "$2" = "$3" ]; then echo "ok    $1: $3"; return; fi
    echo "WRONG $1: expected $2, found $3"; FAILED=1
    if [ -s work/said.log ]; then grep -hE '^(stale|Reason|palimpsest)' work/said.log | head -n 6 || true; fi
}

project() { # name, settings as YAML that replace sections of params.yaml: a small project of its own, in git, and go there
    mkdir "$WORK/$1"; cd "$TOP"
    git ls-files -z --cached --others --exclude-standard -- Snakefile dvc.yaml params.yaml accepted.yaml pyproject.toml .dvc .dvcignore \
        .gitignore data palimpsest profiles rules scripts | tar -c --null -T - | tar -x -C "$WORK/$1"
    cd "$WORK/$1"
    python - "$2" <<'PY'
import sys
from pathlib import Path
import yaml
settings = yaml.safe_load(Path("params.yaml").read_text())
settings["grid"] = {"concepts": ["church"], "methods": ["none"], "attacks": ["none"], "bases": ["mini"], "seeds": [0]}
settings |= {"pool": {"images": 4, "anchors": 4}, "pairs": {"images": 2, "strength": 0.7}, "reference": {"of": "world", "settings": {"images": 12, "stream": 7}}}
settings["bases"]["mini"] |= {"steps": 2, "batch": 4}
settings["prompts"]["settings"] = {"concept_prompts": 4, "other_prompts": 8, "train_texts": 4}
for section, changed in (yaml.safe_load(sys.argv[1]) or {}).items():
    settings[section] |= changed
Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
PY
    git -c init.defaultBranch=main init -q . && git add -A
    git -c user.name=project -c user.email=project@example.org commit -qm start
}
