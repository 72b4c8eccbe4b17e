"""A person's word before a model becomes champion: Airflow's own request for it, and what the answer means for ``promote``."""

# mypy: disable-error-code="misc,attr-defined,has-type"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, ParamsDict

APPROVE, REJECT = "Approve", "Reject"
WHY = "why"


class Approval(HITLOperator):
    """Asks whether the version that the gate let pass may become champion; done at once where nobody is to be asked.

    Not skipped then: where tasks are mapped, whatever comes after one that may be skipped waits for all cohorts together. A request waits
    in Airflow's database, not in a worker. No answer within ``response_timeout`` counts as no.

    Args:
        given: the answer of ``gate``.
        **options: of every operator.
    """

    template_fields = (*HITLOperator.template_fields, "given")

    def __init__(self, *, given: Any, **options: Any) -> None:
        why = Param(
            None,
            source="task",
            type=["null", "string"],
            title="Why",
            description="Goes into the ledger, beside your name.",
        )
        options["params"] = {**(options.get("params") or {}), WHY: why}
        super().__init__(subject="Make it champion?", options=[APPROVE, REJECT], defaults=REJECT, **options)
        self.given = given

    def execute(self, context: Any) -> Any:
        """Ask, unless there is nothing to ask."""
        if (why := needless(self.given, asks=context["params"]["approval"])) is not None:
            self.log.info("Nobody is asked: %s.", why)
            return None
        self._ask_for_the_reason_only()
        self.subject = f"Make version {self.given['version']} champion of cohort {self.given['cohort']}?"
        self.body = request(self.given)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take the answer, or that there was none in time."""
        self._ask_for_the_reason_only()
        return super().execute_complete(context, event)

    def _ask_for_the_reason_only(self) -> None:
        """Not for the run's own parameters, which Airflow adds while it runs: nobody is to change them here."""
        self.params = ParamsDict({WHY: self.params.get_param(WHY)})


def needless(given: Mapping[str, Any], *, asks: bool) -> str | None:
    """Why nobody is asked; None if somebody is.

    Args:
        given: the answer of ``gate``.
        asks: whether the run wants a person's word.
    """
    if not asks:
        return "the run's parameter 'approval' is off"
    if given["judged"]:
        return "it was judged before, which stands whatever anybody says now; a run with another seed is judged anew"
    return None if given["passed"] else "the gate has refused it"


def request(given: Mapping[str, Any]) -> str:
    """What a person is told who is asked, Markdown.

    Args:
        given: the answer of ``gate``.
    """
    serves = f"version {given['champion']}" if given["champion"] else "none, so far"
    reasons = "\n".join(f"- {reason}" for reason in given["reasons"])
    return (
        f"The gate lets it pass:\n\n{reasons}\n\nChampion is {serves}. [The version in MLflow]({given['version_url']})"
    )


def said(answer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Options of ``sensorloop promote`` for what was answered; none if nobody was asked.

    Args:
        answer: what Airflow hands on: ``chosen_options``, ``responded_by_user`` (None: the time was up), ``params_input``.
    """
    if answer is None:
        return ()
    user = answer.get("responded_by_user") or {}
    why = (answer.get("params_input") or {}).get(WHY) or ""
    option = "--approved-by" if answer["chosen_options"] == [APPROVE] else "--rejected-by"
    return (option, str(user.get("name") or ""), *(("--why", str(why)) if why else ()))
