"""One list of options: dataclasses, arguments of evaluate and options of commands agree."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
import typer

import oodbench
from oodbench import cli, settings
from oodbench.cli.options import But, spelled_out
from oodbench.cli.parsing import read
from oodbench.contenders import Networks
from oodbench.errors import OptionError
from oodbench.hardware import Hardware
from oodbench.results.compare import compare
from oodbench.settings import (
    GROUPS,
    PREPROCESSING,
    HardwareSettings,
    NetworkSettings,
    Reporting,
    Scoring,
    Selection,
    Short,
    keywords,
    setting,
    settings_of,
    values,
)

COMMANDS: Mapping[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

TEXT = {"prompts", "class_names", "words"}
"""Of networks that read text."""

LEFT_OUT = {
    "eval": {},
    "compare": {
        NetworkSettings: {"backbone", "checkpoint", "network", "layer", *TEXT, *PREPROCESSING},
        Reporting: {"pictures", "scores", "each_seed"},
    },
    "tune": {
        Scoring: {"tune"},
        Selection: {"ood"},
        Reporting: {"leaderboards", "pictures", "scores", "wide", "each_seed"},
    },
    "train": {
        Scoring: None,
        Selection: {"ood", "task_options"},
        NetworkSettings: {"checkpoint", "network", "layer", *TEXT, *PREPROCESSING},
        Reporting: None,
    },
    "leaderboard": {
        Scoring: None,
        Selection: {"ood", "task_options"},
        NetworkSettings: None,
        HardwareSettings: None,
        Reporting: {"pictures", "scores", "json", "wide", "each_seed"},
    },
}
"""What each command has no use for: fields of the dataclasses that it takes, or None for all."""

OWN = {
    "compare": {"--backbone", "--plot", "--posthoc", "stored"},
    "leaderboard": {"--html", "--out", "--pack", "--release", "--whole"},
}
"""What a command takes besides."""


def flags_of(group: type, without: set[str]) -> set[str]:
    """The options that a dataclass of settings makes."""
    names = set()
    for name, asked in settings_of(group).items():
        if name not in without:
            names |= {asked.flag or name, *asked.short}
    return {f"--{name.replace('_', '-')}" for name in names}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_options_of_a_command_are_the_fields_of_its_dataclasses(name: str) -> None:
    expected = {"--debug", *OWN.get(name, ())}
    for group in GROUPS:
        without = LEFT_OUT[name].get(group, set())
        if without is not None:
            assert without <= set(settings_of(group))
            expected |= flags_of(group, without)
    assert {flag for option in COMMANDS[name].params for flag in option.opts} == expected


def test_commands_cannot_disagree() -> None:
    """An option of the same name has the same default and is written the same way."""

    def facts(option: Any) -> list[Any]:
        return [getattr(option, name, None) for name in ("envvar", "multiple", "is_flag", "min")]

    evaluated = {tuple(option.opts): option for option in COMMANDS["eval"].params}
    shared = 0
    for name in LEFT_OUT:
        for option in COMMANDS[name].params:
            other = evaluated.get(tuple(option.opts))
            if other is None or option.opts[0] in OWN.get(name, ()):
                continue
            shared += name != "eval"
            assert facts(option) == facts(other), f"{name} {option.opts}"
            assert option.required or option.default == other.default, f"{name} {option.opts}"
    assert shared > 60


def test_arguments_of_evaluate_are_the_fields_of_the_dataclasses() -> None:
    fields = {}
    for group in (Selection, Scoring, Networks, Reporting):
        for field in dataclasses.fields(group):
            asked = field.metadata.get("setting")
            if field.name.startswith("_") or (asked and asked.keyword is None):
                continue
            fields[(asked and asked.keyword) or field.name] = field.default
    parameters = inspect.signature(oodbench.evaluate).parameters
    # a modality is an option of a task, and older than these
    assert set(parameters) == {*fields, "hardware", "modality"}
    defaults = {name: p.default for name, p in parameters.items() if name in fields}
    # one seed and one detector need no tuple
    assert defaults.pop("seed") == fields.pop("seed")[0]
    assert defaults.pop("detectors") == fields.pop("detectors")[0]
    assert defaults == fields


def test_compare_takes_all_of_evaluate() -> None:
    parameters = inspect.signature(compare).parameters.values()
    assert any(p.kind is p.VAR_KEYWORD for p in parameters)


def test_networks_and_hardware_are_made_of_their_settings() -> None:
    networks = NetworkSettings(method="ce", seeds=(1, 2), mean=(0.5,))
    made = Networks(**values(networks))
    assert {name: getattr(made, name) for name in values(networks)} == values(networks)
    assert Hardware(**values(HardwareSettings("cpu", "2"))) == Hardware("cpu", "2")
    assert keywords(networks)["seed"] == (1, 2)
    assert "seeds" not in keywords(networks)
    assert "json" not in keywords(Reporting())
    assert "report" in keywords(Reporting())
    assert "method" not in keywords(networks, without=("method",))


# A dataclass as options


@dataclasses.dataclass(frozen=True)
class Weather:
    """Settings of a command that is none of ours."""

    place: str | None = setting(None, "Where.")
    days: int = setting(1, "How many.", flag="for", minimum=1)
    limits: Mapping[str, Any] | None = setting(
        None, "A limit.", flag="limit-set", form="pairs", short={"low_end": Short("Least.", float)}
    )
    private: str = "python"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command line makes of ``Weather``, and the options that it was given."""
    from oodbench.cli import options
    from oodbench.cli.session import typed

    monkeypatch.setattr(options, "GROUPS", (*GROUPS, Weather))
    seen: dict[str, Any] = {}

    def forecast(
        context: typer.Context,
        weather: Annotated[Weather, But(required=("place",), help={"place": "Where it rains."})],
        quick: Annotated[bool, typer.Option("--quick", help="Soon.")] = False,
    ) -> None:
        """Tell the weather."""
        seen.update(weather=weather, quick=quick, typed=typed(context, without=("place",)))

    forecast.__annotations__ = {
        name: eval(text, {**globals(), **locals()}) if isinstance(text, str) else text
        for name, text in forecast.__annotations__.items()
    }
    app = typer.Typer()
    app.command()(spelled_out(forecast))

    def run(*words: str) -> dict[str, Any]:
        app(list(words), standalone_mode=False)
        return seen

    return run


def test_text_becomes_a_dataclass(asked: Any) -> None:
    seen = asked("--place", "here", "--for", "3", "--limit-set", "a=1", "--limit-set", "low_end=0",
                 "--low-end", "2.5", "--quick")  # fmt: skip
    assert seen["weather"] == Weather("here", 3, {"a": "1", "low_end": 2.5})
    assert seen["quick"]
    assert seen["typed"] == ["--for", "3", "--limit-set", "a=1", "--limit-set", "low_end=0",
                             "--low-end", "2.5", "--quick"]  # fmt: skip


def test_what_is_not_given_has_its_default(asked: Any) -> None:
    assert asked("--place", "here")["weather"] == Weather("here")
    assert asked("--place", "here")["typed"] == []


def test_what_is_false_is_a_value_too(asked: Any) -> None:
    """Nothing (None) is what was not asked for; no workers (0) and no text are something."""
    assert read(0, "value", "--workers") == 0
    assert read(False, "value", "--tune") is False
    for form in ("names", "sets", "pairs"):
        assert read(None, form, "--x") is read([], form, "--x") is None
    assert read(None, "channels", "--mean") is None
    for form in ("channels", "seeds"):
        with pytest.raises(OptionError, match="--x"):
            read("", form, "--x")
    assert read("0", "seeds", "--seed") == (0,)


def test_what_is_required_or_out_of_range_is_refused(asked: Any) -> None:
    usage = cli.failures.UsageError
    with pytest.raises(usage, match="place"):
        asked("--for", "1")
    with pytest.raises(usage, match="greater than or equal to 1"):
        asked("--place", "x", "--for", "0")
    with pytest.raises(OptionError, match="--limit-set low"):
        asked("--place", "x", "--limit-set", "low")


def test_debug_is_an_option_of_every_command_that_is_spelled_out(asked: Any) -> None:
    cli.failures.start()
    asked("--place", "here", "--debug")
    with pytest.raises(ZeroDivisionError):
        cli.failures.failed(ZeroDivisionError())
    cli.failures.start()
    assert cli.failures.failed(OptionError("x")) == 2


def test_settings_import_nothing_heavy() -> None:
    """``oodbench --help`` reads them."""
    code = (
        "import sys, oodbench.settings\n"
        "print(*{'torch', 'numpy', 'pandas', 'oodbench.benchmark'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
    assert json.dumps(settings.flags())
