"""Kill `halflabel` at random points, start it again by the same command, and compare with a run nobody killed.

    python tests/benchmarks/bench_kills.py [--kills 100] [--seed 0] [--output FOLDER]

Whole commands of `train`, with 2 loading processes or as two processes of torchrun, SIGKILL to all of them, several
kills a run. A kill counts for the phase in which the process was by what it had printed and written. Counted are
checkpoints or cached features that were finished and not gone on from (lost), starts that ended in an error (by hand),
and runs whose final weights, measures, or losses of any step are not those of the unbroken run to the last bit
(different). Commands that start anew (`data` to shards, `review`, `advise`) are killed once they have written or
printed something; lost is what then lies at its place and is not whole, different what the next start ends with.
"""

import argparse
import contextlib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

BASE = {
    "backbone": "test_resnet", "weights": "none", "per_device_train_batch_size": 16, "lr_scheduler_type": "cosine",
    "eval_strategy": "steps", "save_strategy": "steps", "logging_strategy": "steps", "logging_steps": 1,
    "dataloader_num_workers": 2, "save_total_limit": 1, "decide": "f1", "use_cpu": True, "disable_tqdm": True,
    "report_to": "none", "learning_rate": 0.01, "metric_for_best_model": "known_loss", "greater_is_better": False,
    "log_epochs": True,
}  # fmt: skip
FINETUNE = {"loss": "ll_r", "ema_decay": 0.9, "warmup_steps": 3, "num_train_epochs": 6, "eval_steps": 4,
            "save_steps": 4}  # within epochs of 6 steps  # fmt: skip
RECIPES = {
    "finetune": FINETUNE,
    "two": {**FINETUNE, "per_device_train_batch_size": 8, "ddp_backend": "gloo"},  # as many images a step
    "probe": {
        "freeze_backbone": True, "cache_features": True, "views": 3, "num_train_epochs": 60, "eval_steps": 10,
        "save_steps": 10,
    },
    "self_train": {
        "freeze_backbone": True, "cache_features": True, "pseudo_labels": "soft", "num_train_epochs": 20,
        "eval_steps": 10, "save_steps": 10,
    },
}  # fmt: skip
PHASES = {
    "training": "finetune", "evaluation": "finetune", "checkpoint writing": "finetune",
    "measuring and saving": "finetune", "feature caching": "probe", "probe on cached features": "probe",
    "self_train": "self_train", "two: training": "two", "two: evaluation": "two", "two: checkpoint writing": "two",
}  # fmt: skip
COMMANDS = {
    "shards": ["data", "TABLE", "--output", "OUT/"],
    "review": ["review", "MODEL", "TABLE", "--output", "OUT"],
    "advise": ["advise", "TABLE", "--backbone", "test_resnet", "--weights", "none", "--output", "OUT/advice"],
}
COUNTS = dict(zip((*PHASES, *COMMANDS), (14, 11, 14, 6, 8, 8, 6, 8, 6, 7, 4, 4, 4), strict=True))
LOSS = r"^epoch ([\d.]+): training loss"
EVALUATED = r"^epoch (0.6667|1.333|2|2.667|3.333|4|4.667|5.333|6): training"  # every fourth step of six an epoch
LIMIT_S = 3600


def write_data(folder):
    """96 training pictures, half of whose entries are unknown, 40 of validation and 24 of test."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["file_name,red,blue,split"]
    for i in range(160):
        answers = rng.integers(0, 2, 2)
        pixels = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
        pixels[:, :48, 0] += np.uint8(150 * answers[0])
        pixels[:, 48:, 2] += np.uint8(150 * answers[1])
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        split = "train" if i < 96 else "validation" if i < 136 else "test"
        shown = ["" if split == "train" and rng.random() < 0.5 else str(answer) for answer in answers]
        lines.append(f"{i:03d}.png,{shown[0]},{shown[1]},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def begin(arguments, folder):
    """Start Python with some arguments."""
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home"),
             "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def kill_all(process):
    """Kill a process and all that it started; those of torchrun are sessions of their own."""
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)


class Command:
    """A start of a recipe in a folder, and what it has printed."""

    def __init__(self, recipe, table, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.out, self.cache = folder, folder / "out", folder / "cache"
        keys = {**BASE, **RECIPES[recipe], "data": str(table), "output_dir": str(self.out),
                "feature_cache": str(self.cache)}  # fmt: skip
        (folder / f"{recipe}.yaml").write_text(yaml.safe_dump(keys))
        start = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if recipe == "two" else []
        module = ["-m", *start, *(["-m"] if start else []), "halflabel_cli"]
        self.process = begin([*module, "train", str(folder / f"{recipe}.yaml"), "--resume_from_checkpoint"], folder)
        self.lines, self.ended, self._queue = [], False, queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._queue.put((time.monotonic(), line.rstrip("\n")))
        self._queue.put(None)

    def next_line(self):
        """Wait for the next line; return (when it came, the line), or None at the end."""
        if self.ended:
            return None
        found = self._queue.get(timeout=LIMIT_S)
        self.ended = found is None
        if not self.ended:
            self.lines.append(found)
        return found

    def finish(self):
        """Read to the end; return the exit code."""
        while self.next_line() is not None:
            pass
        return self.process.wait()

    def kill(self):
        """Kill it and the processes that it started, and take in what they had printed."""
        kill_all(self.process)
        self.finish()

    def said(self, pattern):
        """Return the last match in what it has printed, or None."""
        return next((match for _, line in reversed(self.lines) if (match := re.search(pattern, line))), None)

    def wait_for(self, pattern, count=1):
        """Read until so many lines match; return when the last came, or None where it ends before."""
        while count:
            found = self.next_line()
            if found is None:
                return None
            count -= bool(re.search(pattern, found[1]))
        return found[0]

    def unfinished(self):
        """Return whether half a checkpoint lies there."""
        return any((self.out / ".unfinished").glob("checkpoint-*"))

    def phase(self):
        """Tell in which phase it was killed."""
        events = [kind for _, line in self.lines if (kind := self._kind(line))]
        last = events[-1] if events else None
        if self.folder.name.startswith("self_train"):
            return "self_train"
        if self.folder.name.startswith("probe"):
            return (
                "feature caching" if last in (None, "features") and self.cache.exists() else "probe on cached features"
            )
        two = "two: " if self.folder.name.startswith("two") else ""
        if last == "over":
            return "measuring and saving"  # of two processes it is not asked for
        if self.unfinished():
            return f"{two}checkpoint writing"
        if last == "loss":
            done = round(float(self.said(LOSS)[1]) * 6)
            return f"{two}{'evaluation' if done % 4 == 0 else 'training'}"
        return f"{two}training"

    @staticmethod
    def _kind(line):
        for kind, pattern in (("over", "seconds of training"), ("evaluated", "validation mAP"), ("loss", LOSS),
                              ("features", r"features of \w+: \d+ of")):  # fmt: skip
            if pattern and re.search(pattern, line):
                return kind
        return None


def wait_and_kill(command, phase, rng):
    """Let it come into a phase, wait a random time there, and kill it; return False where it ended before."""
    if phase == "feature caching":
        came, longest = command.wait_for(r"features of \w+: 0 of", rng.choice([1, 1, 2])), 0.6
    elif phase.endswith("training") or phase == "probe on cached features":
        came, longest = command.wait_for(LOSS, rng.randint(1, 9)), 0.15
    elif phase == "self_train":
        came, longest = command.wait_for(*rng.choice([("features of test", 1), (LOSS, 1), (LOSS, 30)])), 0.5
    elif phase.endswith("evaluation"):
        came, longest = command.wait_for(EVALUATED, rng.randint(1, 2)), 0.3
    elif phase == "measuring and saving":
        came, longest = command.wait_for("seconds of training"), 1.0
    else:
        came, longest = command.wait_for("validation mAP", rng.randint(1, 2)), 0.05
        while came is not None and not command.unfinished() and command.process.poll() is None:
            time.sleep(0.0005)
    if came is None:
        return False
    time.sleep(rng.uniform(0, longest))
    command.kill()
    return command.process.returncode == -signal.SIGKILL


def last_step(out):
    """Return the step of the last checkpoint that is in its place."""
    return max((int(path.name.split("-")[1]) for path in out.glob("checkpoint-*")), default=None)


def rows_cached(cache):
    """Return how many rows of features are in whole shards."""
    return sum(len(load_file(path)["keys"]) for path in cache.rglob("shard-*.safetensors"))


def is_lost(before, command):
    """Tell whether what was finished at the kill, a step or rows of features, was not gone on from."""
    step, rows = before
    said = command.said(r"going on from .*checkpoint-(\d+)")
    if step is not None and (said is None or int(said[1]) != step):
        return True
    found = [re.search(r"features of \w+: (\d+) of (\d+)", line) for _, line in command.lines]
    there, all_rows = (sum(int(match[part]) for match in found if match) for part in (1, 2))
    return there < min(rows, all_rows)  # killed again, it may not have come to all splits


def history(out):
    """Return what was logged at each step, without what depends on the clock."""
    timed = re.compile("runtime|per_second|flos|^train_")
    return [
        {key: value for key, value in entry.items() if not timed.search(key)}
        for entry in json.loads((out / "training_log.json").read_text())
    ]


def differences(out, whole):
    """Name what two runs do not have in common to the last bit: weights, measures, or history."""
    if not (out / "metrics.json").is_file():
        return ["no result"]
    one, other = (load_file(folder / "model.safetensors") for folder in (out, whole))
    found = {
        "weights": one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one),
        "measures": (out / "metrics.json").read_text() == (whole / "metrics.json").read_text(),
        "history": history(out) == history(whole),
    }
    return [name for name, equal in found.items() if not equal]


def measure(folder, counts, seed=0):
    """Kill as often as `counts` says for each phase; return per phase what came of it."""
    rng = random.Random(seed)
    table = write_data(folder / "data")
    report = {phase: {"kills": 0, "lost": 0, "by hand": 0, "different": 0} for phase in counts}
    for recipe in RECIPES:
        phases = [phase for phase in counts if PHASES[phase] == recipe]
        if not sum(counts[phase] for phase in phases):
            continue
        unbroken = Command(recipe, table, folder / recipe)
        if unbroken.finish():
            raise SystemExit("\n".join(line for _, line in unbroken.lines))
        number = 0
        while any(report[phase]["kills"] < counts[phase] for phase in phases):
            number += 1
            place = folder / f"{recipe}_{number}"
            in_phases = run_with_kills(recipe, table, place, phases, counts, report, rng)
            found = differences(place / "out", unbroken.out)
            for phase in in_phases if found else ():
                report[phase]["different"] += 1
            outcome = f"different {', '.join(found)}" if found else "the same model"
            print(f"{place.name}: killed in {', '.join(in_phases) or 'no phase'}; {outcome}", flush=True)
            if not found:
                shutil.rmtree(place)
    return report


def run_with_kills(recipe, table, place, phases, counts, report, rng):
    """Start a run again and again until it ends by itself; return the phases in which it was killed."""
    before, in_phases = (None, 0), []
    while True:
        command = Command(recipe, table, place)
        left = [phase for phase in phases if report[phase]["kills"] < counts[phase]]
        killed = len(in_phases) < 6 and left and wait_and_kill(command, rng.choice(left), rng)
        code = command.process.returncode if killed else command.finish()
        if in_phases and is_lost(before, command):
            report[in_phases[-1]]["lost"] += 1
            print("\n".join(line for _, line in command.lines), flush=True)
        if not killed:
            if code:
                report[in_phases[-1] if in_phases else left[0]]["by hand"] += 1
                print("\n".join(line for _, line in command.lines), flush=True)
            return in_phases
        in_phases.append(command.phase())
        report[in_phases[-1]]["kills"] += 1
        before = last_step(command.out), rows_cached(command.cache)


def kill_commands(folder, counts, report, rng):
    """Kill the commands that start anew."""
    table, model = folder / "data/labels.csv", folder / "finetune/out"
    for phase, words in COMMANDS.items():
        report[phase] = {"kills": 0, "lost": 0, "by hand": 0, "different": 0}

        def start(place, words=words):
            place.mkdir(parents=True, exist_ok=True)
            given = {"TABLE": str(table), "MODEL": str(model), "OUT": str(place / "out")}
            return begin(["-m", "halflabel_cli", *(re.sub("TABLE|MODEL|OUT", lambda found: given[found[0]], word)
                                                   for word in words)], place)  # fmt: skip

        if not counts[phase]:
            continue
        process, began = start(folder / phase), time.monotonic()
        first = wait_for_sign(process, folder / phase)
        if process.wait():
            raise SystemExit(process.stdout.read())
        longest, whole = time.monotonic() - began - first, outputs(folder / phase / "out")
        number = 0
        while report[phase]["kills"] < counts[phase]:
            number += 1
            place = folder / f"{phase}_{number}"
            process = start(place)
            wait_for_sign(process, place)
            time.sleep(rng.uniform(0, longest))
            if process.poll() is None:
                kill_all(process)
            if process.wait() != -signal.SIGKILL:
                shutil.rmtree(place)
                continue
            report[phase]["kills"] += 1
            left = outputs(place / "out")
            report[phase]["lost"] += any(left[name] != whole[name] for name in left if name in whole)
            again = start(place)
            said, _ = again.communicate()
            report[phase]["by hand"] += again.returncode != 0
            same = outputs(place / "out") == whole
            report[phase]["different"] += not same
            print(f"{place.name}: {sorted(left)} were there; {'the same' if same else said}", flush=True)


def wait_for_sign(process, place):
    """Wait until a command has printed or written something; return how long that took."""
    began = time.monotonic()
    os.set_blocking(process.stdout.fileno(), False)
    while process.poll() is None and not process.stdout.read(1):
        if any(path.is_file() and "home" not in path.parts for path in place.rglob("*")):
            break
        time.sleep(0.005)
    os.set_blocking(process.stdout.fileno(), True)
    return time.monotonic() - began


def outputs(folder):
    """Return the content of every file that is not hidden, without what depends on the clock."""
    timed = re.compile(rb'"seconds": [\d.e-]+')
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): timed.sub(b"", path.read_bytes()) for path in files if path not in hidden}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all phases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("bench_kills"))
    options = parser.parse_args()
    share = options.kills / sum(COUNTS.values())
    counts = {phase: round(count * share) for phase, count in COUNTS.items()}
    report = measure(options.output, {phase: counts[phase] for phase in PHASES}, options.seed)
    kill_commands(options.output, counts, report, random.Random(options.seed))
    (options.output / "kills.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{'phase':26} kills   lost   by hand   different")
    for phase, row in report.items():
        print(f"{phase:26} {row['kills']:5} {row['lost']:6} {row['by hand']:9} {row['different']:11}")
    total = {key: sum(row[key] for row in report.values()) for key in ("kills", "lost", "by hand", "different")}
    print(f"{'all':26} {total['kills']:5} {total['lost']:6} {total['by hand']:9} {total['different']:11}")


if __name__ == "__main__":
    main()
