"""The demo: the whole road, from a folder of photographs to a private model that answers."""

import hashlib
import os
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from lensmith import Client
from lensmith.cli.base_models import installable
from lensmith.cli.dataset import print_failed, wait_until_ready
from lensmith.cli.models import PLAIN, follow
from lensmith.cli.options import DEFAULT_DATA_DIR, DataDir
from lensmith.cli.output import console, print_findings, print_table, safe
from lensmith.cli.platform import stack_commands
from lensmith.cli.progress import counting_progress
from lensmith.cli.session import local_operator_key
from lensmith.config import cache_folder
from lensmith.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from lensmith.importer import Journal, import_files
from lensmith.labels import LabelledFile, from_folders, pictures
from lensmith.types import Annotation, ModelType, ModelVersion, Prediction, VersionState

APP: Final = "demo"
MODEL: Final = "sorter"
NETWORK: Final = "mobilenetv2-features"
STARTER: Final = "starter"
HELD_OUT: Final = 0.2
MATERIAL_PICTURES: Final = 60
SHOWN: Final = 5
BATCH: Final = 32


@dataclass(frozen=True)
class Photos:
    """Labelled pictures to learn from, and others to be asked about."""

    title: str
    training: list[LabelledFile]
    held_out: list[LabelledFile]


@dataclass(frozen=True)
class Outcome:
    """What the demo measured."""

    imported: int
    import_seconds: float
    version: ModelVersion
    training_seconds: float
    accuracy: float
    answers: list[tuple[LabelledFile, Prediction]]


def add_to(app: typer.Typer) -> None:
    """Adds this command."""
    app.command()(demo)


def demo(
    photos: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder with a subfolder for each label.")
    ] = None,
    port: Annotated[
        int, typer.Option(help="Public port of a platform that has to be started; 0 for any free one.")
    ] = 8080,
    stop: Annotated[bool, typer.Option(help="Stop the platform afterwards, if the demo started it.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Start the platform, train a model on photographs, and ask it about others.

    The platform stays up, so that the calls printed at the end can be repeated by hand; `lensmith down` stops it.
    """
    shared = Path(os.environ.get("LENSMITH_SHARED", "../shared"))
    with tempfile.TemporaryDirectory() as scratch:
        # Before the platform starts: a folder that will not do is told at once.
        chosen = _choose_photos(photos, shared)
        with _platform(data_dir, port, stop=stop) as url:
            secret = local_operator_key(data_dir)
            with Client(url, secret) as operator:
                base_model = _ensure_base_model(operator, shared / "models" / NETWORK, Path(scratch))
                key = _fresh_app(operator)
            with Client(url, key, APP) as client:
                outcome = _run(client, chosen)
            _print_outcome(outcome, chosen, base_model)
            _print_calls(url, key, outcome.answers[0][0].path.resolve())
            console.print(f"held-out accuracy {outcome.accuracy:.3f}")


@contextmanager
def _platform(data_dir: Path, port: int, *, stop: bool) -> Iterator[str]:
    """The platform of this machine, started if need be; yields its address."""
    commands = stack_commands()
    from lensmith_stack.composition import UpOptions
    from lensmith_stack.ports import free_ports

    told = commands.status(data_dir)
    if told.pid:
        console.print(f"using the platform at {told.url}")
        yield told.url
        return
    options = UpOptions(data_dir=data_dir, port=port if port and _free(port) else free_ports(1)[0])
    begin = time.monotonic()
    if commands.up(options, lambda line: console.print(f"[dim]{safe(line)}[/]", soft_wrap=True), detach=True):
        raise UnavailableError("PLATFORM_NOT_STARTED", "the platform did not start; `lensmith logs` may tell why")
    console.print(f"the platform is up after {time.monotonic() - begin:.1f} s")
    try:
        yield commands.status(data_dir).url
    finally:
        if stop:
            commands.down(data_dir, lambda line: console.print(f"[dim]{safe(line)}[/]"))


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _choose_photos(photos: Path | None, shared: Path) -> Photos:
    """The folder that was asked for; or photographs of rubbish where they are at hand; or pictures drawn by formula."""
    if photos:
        return _split(f"photographs in {photos}", photos)
    if (shared / "datasets" / "trashnet").is_dir():
        return _trashnet(shared / "datasets" / "trashnet")
    from lensmith_vision.materials import render

    console.print(
        f"no photographs in {safe(str(shared))} (LENSMITH_SHARED): drawing pictures of materials; "
        "make demo PHOTOS=… takes your own",
        soft_wrap=True,
    )
    # Kept, so that the calls printed at the end find them.
    folder = cache_folder() / "materials"
    render(folder, MATERIAL_PICTURES)
    return _split("drawn materials", folder)


def _trashnet(folder: Path) -> Photos:
    """The official split of TrashNet: whoever reports a figure on it uses the same pictures."""
    parts = {}
    for part in ("train", "test"):
        listed = (folder / "_meta" / f"one-indexed-files-notrash_{part}.txt").read_text().split()[::2]
        files = [next(folder.glob(f"*/{name}")) for name in listed]
        parts[part] = [LabelledFile(file, (Annotation(file.parent.name),)) for file in files]
    return Photos("TrashNet, official split", parts["train"], parts["test"])


def _split(title: str, folder: Path) -> Photos:
    """Holds out a fifth of each label by the bytes of the pictures: the same picture twice lies on one side."""
    label = from_folders(folder)
    by_label: dict[str, dict[str, LabelledFile]] = defaultdict(dict)
    for path in pictures(folder):
        for annotation in label(path):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            by_label[annotation.concept][digest] = LabelledFile(path, (annotation,))
    photos = Photos(title, [], [])
    for files in by_label.values():
        ordered = [files[digest] for digest in sorted(files)]
        cut = max(1, round(len(ordered) * HELD_OUT))
        photos.held_out.extend(ordered[:cut])
        photos.training.extend(ordered[cut:])
    if len(by_label) < 2:
        raise InvalidInputError(
            "FOLDER_EMPTY", f"{folder} needs at least two subfolders with pictures, one for each label"
        )
    return photos


def _ensure_base_model(operator: Client, network: Path, scratch: Path) -> str:
    """Installs the network where it is at hand and not installed yet; names the best base model."""
    installed = [base_model.id for base_model in operator.base_models.list()]
    if NETWORK not in installed and network.is_dir():
        console.print(f"installing base model {NETWORK}")
        installed.insert(0, operator.base_models.import_pack(installable(network, scratch)).id)
    best = next(iter(operator.base_models.list())).id
    if best == PLAIN:
        console.print(
            "[yellow]no network is installed, so `plain` is used: a base model without learning. Expect fewer right "
            f"answers than with a real one: the 82 % and more on TrashNet need {NETWORK} (LENSMITH_SHARED).[/]"
        )
    elif best == STARTER:
        console.print(
            f"[dim]`{STARTER}` is used, the small network that ships with Lensmith; "
            "`lensmith base-models import` installs bigger ones[/]",
            soft_wrap=True,
        )
    return best


def _fresh_app(operator: Client) -> str:
    """Makes the demo's app anew and returns the secret of its key."""
    with suppress(NotFoundError):
        operator.apps.delete(APP)
    return operator.apps.create(APP, display_name="Demo")[1].secret


def _run(client: Client, photos: Photos) -> Outcome:
    begin = time.monotonic()
    with counting_progress() as progress, Journal.of(client, Path(photos.title)) as journal:
        task = progress.add_task("taking in", total=len(photos.training))
        report = import_files(client, photos.training, journal, lambda count: progress.advance(task, count))
    print_failed(report)
    wait_until_ready(client)
    imported = time.monotonic() - begin
    client.models.create(MODEL, ModelType.MULTI_CLASS)
    begin = time.monotonic()
    version = follow(client, MODEL, client.models.train(MODEL))
    trained = time.monotonic() - begin
    print_findings(version.findings)
    if version.state is not VersionState.READY:
        raise version.error or PreconditionError("NOT_READY", f"the model is {version.state}")
    answers = list(_ask(client, photos.held_out))
    right = sum(_is_right(file, answer) for file, answer in answers)
    return Outcome(report.created, imported, version, trained, right / len(answers), answers)


def _ask(client: Client, files: Sequence[LabelledFile]) -> Iterator[tuple[LabelledFile, Prediction]]:
    with counting_progress() as progress:
        task = progress.add_task("asking", total=len(files))
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            answers = client.predict(MODEL, [item.path for item in part], max_concepts=2).items
            yield from zip(part, answers, strict=True)
            progress.advance(task, len(part))


def _is_right(file: LabelledFile, answer: Prediction) -> bool:
    return answer.best is not None and answer.best.concept == file.annotations[0].concept


def _print_outcome(outcome: Outcome, photos: Photos, base_model: str) -> None:
    rate = outcome.imported / outcome.import_seconds
    wrong = len(outcome.answers) - round(outcome.accuracy * len(outcome.answers))
    console.print()
    print_table(
        photos.title,
        ["", ""],
        [
            (
                "images taken in",
                f"{outcome.imported} in {outcome.import_seconds:.1f} s ({rate:.0f}/s), embedded and ready",
            ),
            ("base model", base_model),
            ("training", f"{outcome.training_seconds:.1f} s, {len(outcome.version.concepts)} concepts"),
            ("held out", f"{len(outcome.answers)} pictures never trained on, {wrong} answered wrong"),
        ],
    )
    step = max(1, len(outcome.answers) // SHOWN)
    rows = []
    for file, answer in outcome.answers[::step][:SHOWN]:
        best = answer.best
        said = best.concept if best else str(answer.error)
        rows.append(
            (
                file.path.name,
                file.annotations[0].concept,
                said,
                best.value if best else None,
                "✓" if _is_right(file, answer) else "✗",
            )
        )
    print_table("five predictions", ["picture", "is", "answer", "#score", ""], rows)


def _print_calls(url: str, key: str, picture: Path) -> None:
    """Prints the calls to repeat by hand."""
    host = url.removeprefix("http://")
    inputs = f'\\"inputs\\":[{{\\"image\\":{{\\"content\\":\\"$(base64 -w0 "{picture}")\\"}}}}]'
    model = f"apps/{APP}/models/{MODEL}"
    settings = f"LENSMITH_URL={url} LENSMITH_KEY=$KEY LENSMITH_APP={APP}"
    lines = (
        "again by hand, with the key made for this app:",
        f"  export KEY={key}",
        f'  curl -H "Authorization: Key $KEY" {url}/v1/{model}:predict -d "{{{inputs}}}"',
        f'  grpcurl -plaintext -H "authorization: Key $KEY" -d "{{\\"model\\":\\"{model}\\",{inputs}}}"'
        f" {host} lensmith.v1.InferenceService/Predict",
        f'  {settings} lensmith predict {MODEL} "{picture}"',
        f"the platform goes on at {url} (docs at {url}/docs); `lensmith down` stops it",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print()
