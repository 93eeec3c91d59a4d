"""Write the prompts of a concept: those to evaluate on, and the lists that pools, methods and attacks learn from."""

from importlib import import_module
from pathlib import Path

from palimpsest.data import Concept
from palimpsest.files import write_json
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    concept, entry = Concept.of(job.reads["concept"]), job.reads["prompts"]
    lists = import_module(f"palimpsest.prompts.{entry['of']}").prompts(concept, seed=0, **entry["settings"])
    plain, told = [row.fields() for row in lists.pop("plain")], lists.pop("record", None)
    record = {**job.record(entry), **({"asked": told} if told else {})}
    write_json(Path(paths.prompts(job.concept, job.base)), {"record": record, "prompts": plain, "texts": lists})


if __name__ == "__main__":
    stage.run(__doc__, "concept base", main)
