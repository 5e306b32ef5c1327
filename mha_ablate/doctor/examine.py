"""All questions, asked in order."""

from __future__ import annotations

from collections.abc import Callable

from mha_ablate.doctor import defaults, machine, places, software
from mha_ablate.doctor.fact import Answer, Fact, in_words

Question = Callable[[], Answer | dict[str, Answer]]


def examine() -> list[Fact]:
    """Every fact about this machine. A question that fails, or needs a torch that is broken, takes no other with it."""
    torch_error = software.import_error("torch")
    without = "torch cannot be imported"

    def needs_torch(question: Question) -> Question:
        return (lambda: Answer("not known", "note", without)) if torch_error else question

    questions: list[tuple[str, str, Question]] = [
        ("mha_ablate", "version", software.own_version),
        ("mha_ablate", "runs from", software.own_place),
        ("mha_ablate", "Python", software.python),
        ("mha_ablate", "platform", software.system),
        ("packages", "requirements", lambda: software.packages(torch_error)),
        ("extras", "extras", software.extras),
        ("machine", "processor", machine.processor),
        ("machine", "cores", machine.cores),
        ("machine", "instructions", needs_torch(machine.instructions)),
        ("machine", "memory", machine.memory),
        ("machine", "allocator", machine.allocator),
        ("machine", "compiler", machine.compiler),
        ("machine", "GPU", needs_torch(machine.gpu)),
        ("defaults", "precision", needs_torch(defaults.defaults)),
        ("folders", "cache", places.cache),
        ("folders", "Hugging Face", places.hugging_face),
        ("folders", "outputs", places.outputs),
        ("network", "Hub", places.hub),
    ]
    return [fact for group, key, question in questions for fact in ask(group, key, question)]


def ask(group: str, key: str, question: Question) -> list[Fact]:
    """The facts that answer a question; it is a note that it could not be answered."""
    try:
        found = question()
    except Exception as error:
        found = Answer("not known", "note", in_words(error))
    answers = found if isinstance(found, dict) else {key: found}
    return [Fact(group, name, *answer) for name, answer in answers.items()]


def advice(facts: list[Fact]) -> str:
    """The last line: what to do about the problems, or that there is none."""
    problems = [fact for fact in facts if fact.state == "problem"]
    if not problems:
        return "`mha-ablate compare` can run here."
    fixes = "; ".join(dict.fromkeys(fact.fix for fact in problems))
    return (
        f"{len(problems)} problem{'s' * (len(problems) != 1)} in the way of `mha-ablate compare`. What to do: {fixes}"
    )
