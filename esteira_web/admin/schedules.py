"""Schedules in the admin: those from code can be enabled and disabled, those of an operator can be edited.

Only the changed fields are written, so a keeper's `last_tick_at` is never overwritten. A schedule that is enabled, or
gets another cadence, begins now: ticks of the time before are not made up for.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.forms.fields import InvalidJSONInput
from django.http import HttpRequest
from django.utils.safestring import SafeString

from esteira.errors import EsteiraError, Mistake
from esteira.files.uploads import may_name
from esteira.job_types.checking import check
from esteira.job_types.registry import registry
from esteira.job_types.schedule import Cadence, checked
from esteira.job_types.unique_key import unique_key
from esteira.models import ClockTimestamp, Schedule
from esteira.redact import HIDDEN, shown_params
from esteira.values import json_text
from esteira.values.bounds import EVERY, GRACE, SCHEDULE_NAME
from esteira.values.readable import as_json
from esteira_web.admin.asked import OnlyWhatIsOffered
from esteira_web.admin.readonly import CappedPaginator, moment, pretty
from esteira_web.admin.typed import NumberField
from esteira_web.admin.typed import checked as checked_text

WRITABLE = ("name", "type", "params", "cron", "tz", "every_s", "overlap", "missed", "grace_s", "enabled")
CADENCE = {"cron", "tz", "every_s"}
#: An operator who changes a schedule has seen its error; the next turn must show at once whether the error is gone.
TRIED_ANEW: dict[str, Any] = {"error": "", "error_at": None, "failures": 0, "retry_at": None}


class SwitchForm(forms.ModelForm):  # type: ignore[type-arg]
    """The one field that can be changed for a schedule that is declared in code."""

    class Meta:
        model = Schedule
        fields = ("enabled",)


class ParamsField(forms.JSONField):
    """JSON that can always be shown again: half of a surrogate pair, for example, cannot be sent to a browser."""

    def to_python(self, value: Any) -> Any:
        """Parse JSON with the parser of the API; Django's own fails at long numbers and at deep nesting."""
        if not isinstance(value, str) or value in self.empty_values:
            return super().to_python(value)
        try:
            document, twice = json_text.read(value)
        except ValueError as error:
            raise forms.ValidationError(f"This is not JSON: {error}.") from None
        if twice:
            wrong = [Mistake(code=json_text.TWICE, at=at) for at in twice]
            raise forms.ValidationError(f"{', '.join(one.path for one in wrong)}: {wrong[0]}")
        return document

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            return super().bound_data(data, initial)
        except (ValueError, RecursionError):
            return InvalidJSONInput(data)

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, InvalidJSONInput) else as_json(value)


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]
    """The form of an operator's schedule."""

    type = forms.ChoiceField(help_text="The job type that the schedule submits.")
    params = ParamsField(required=False)
    cron = forms.CharField(
        required=False, help_text="Five fields, such as 0 6 1 * *; or leave it empty and fill in Every."
    )
    every_s = NumberField(
        required=False,
        min_value=EVERY.least,
        max_value=EVERY.most,
        initial=None,
        label="Every",
        help_text="Seconds between two ticks.",
    )
    grace_s = NumberField(
        min_value=GRACE.least,
        max_value=GRACE.most,
        initial=60,
        label="Grace",
        help_text="Seconds that a tick may be late before it counts as missed.",
    )
    overlap = forms.ChoiceField(
        choices=[
            ("allow", "allow: submit in every case"),
            ("skip", "skip: no new job while one waits or runs"),
            ("queue", "queue: submit, but run one after the other"),
        ]
    )
    missed = forms.ChoiceField(
        choices=[
            ("once", "once: one job for all missed ticks"),
            ("skip", "skip: no job"),
            ("all", "all: one job for each missed tick"),
        ]
    )

    class Meta:
        model = Schedule
        fields = WRITABLE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["type"].choices = [(k.name, f"{k.name}: {k.title}") for k in registry.all()]  # type: ignore[attr-defined]
        if self.instance.pk:
            self.initial["params"] = shown_params(self.instance.type, self.instance.params)
            self.initial["every_s"] = self.instance.every_s or None

    def clean_name(self) -> str:
        name = checked_text(SCHEDULE_NAME, self.cleaned_data["name"])
        if name != self.instance.name and name in registry.names():
            raise forms.ValidationError(
                f"{name} is a job type: the name is reserved for a schedule in its code. Choose another name."
            )
        return name

    def clean_every_s(self) -> float:
        return self.cleaned_data["every_s"] or 0.0

    def clean(self) -> None:
        """Check the cadence and the job's parameters as the core does."""
        super().clean()
        self._check_cadence()
        if not self.errors.keys() & {"type", "params"}:
            self._check_params()

    def _check_cadence(self) -> None:
        data = self.cleaned_data
        if self.errors.keys() & CADENCE:
            return
        expression, seconds = data["cron"], data["every_s"]
        if expression and seconds:
            said = f"Cron is {expression} and Every is {seconds:g} seconds: clear one of the two."
            self.add_error("cron", said)
        elif not expression and not seconds:
            said = "Give a cron expression here, such as 0 6 1 * *, or a number of seconds in Every."
            self.add_error("cron", said)
        else:
            try:
                checked(Cadence(cron=expression, tz=data["tz"], every_s=seconds))
            except EsteiraError as error:
                self.add_error(_guilty(data), str(error))

    def _check_params(self) -> None:
        given = self.cleaned_data.get("params") or {}
        # Asterisks mean the stored value, in the same type only: another type may show a value that this type hides.
        same = self.instance.pk and self.cleaned_data["type"] == self.instance.type
        kept = self.instance.params if same else {}
        if not isinstance(given, dict):
            self.add_error("params", 'Give a JSON object, such as {"name": "Ana"}.')
            return
        whole = {name: kept.get(name, v) if v == HIDDEN else v for name, v in given.items()}
        try:
            job_type = registry.get(self.cleaned_data["type"])
            checked, _ = check(job_type.model, whole, may_name=may_name(None))
            unique_key(job_type, checked)
            json.dumps(whole, allow_nan=False).encode()
        except EsteiraError as error:
            self.add_error("params", str(error))
        except ValueError as error:  # NaN, which Python's JSON parser accepts and PostgreSQL refuses
            self.add_error("params", f"This is not JSON: {error}.")
        self.cleaned_data["params"] = whole


def _guilty(data: dict[str, Any]) -> str:
    """Return the field that makes a cadence invalid."""
    try:
        checked(Cadence(every_s=1, tz=data["tz"]))
    except EsteiraError:
        return "tz"
    return "cron" if data["cron"] else "every_s"


class OriginFilter(admin.SimpleListFilter):
    """By origin: code, database, or gone from the code."""

    title = parameter_name = "origin"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in ("code", "database", "gone")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> QuerySet[Schedule]:
        return queryset.filter(origin=self.value()) if self.value() else queryset


@admin.register(Schedule)
class ScheduleAdmin(OnlyWhatIsOffered):
    list_display = ("name", "type", "cadence", "enabled", "origin", "last_tick", "trouble")
    list_filter = ("enabled", OriginFilter)
    ordering = ("name",)
    search_fields = ("name", "type")
    sortable_by = ("name", "type", "enabled", "origin")
    actions = ("enable", "disable")
    paginator = CappedPaginator
    told = ("last_tick", "trouble")
    from_code = ("name", "type", "cadence", "overlap", "missed", "grace_s", "origin", *told)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = SwitchForm if obj and not _is_own(obj) else ScheduleForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj and not self.has_change_permission(request, obj):
            return ("enabled", *self.from_code, "given")
        if obj is None:
            return WRITABLE
        return (*WRITABLE, *self.told) if _is_own(obj) else ("enabled", *self.from_code)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj and not self.has_change_permission(request, obj):
            return ("enabled", *self.from_code, "given")
        if obj is None:
            return ()
        return self.told if _is_own(obj) else self.from_code

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Allow an operator's schedules only: one from code would come back with the next `migrate`."""
        return (obj is None or _is_own(obj)) and super().has_delete_permission(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # it does not check the permission for each row
        return actions

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """List the schedule alone: its skips are deleted with it, and there may be very many."""
        return [str(one) for one in objs], {}, set(), []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.origin = "database"
            obj.save()
            return
        obj.save(update_fields=form.changed_data)
        mine = Schedule.objects.filter(pk=obj.pk)
        if CADENCE & set(form.changed_data):
            mine.update(anchor_at=ClockTimestamp(), last_tick_at=ClockTimestamp())
        elif "enabled" in form.changed_data and obj.enabled:
            mine.update(last_tick_at=ClockTimestamp())
        mine.update(**TRIED_ANEW)

    @admin.action(description="Enable, from now on", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        n = queryset.filter(enabled=False).update(enabled=True, last_tick_at=ClockTimestamp(), **TRIED_ANEW)
        self.message_user(request, f"{n} enabled.")

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        n = queryset.filter(enabled=True).update(enabled=False)
        self.message_user(request, f"{n} disabled.")

    @admin.display(description="when")
    def cadence(self, schedule: Schedule) -> str:
        return Cadence(cron=schedule.cron, tz=schedule.tz, every_s=schedule.every_s).shown()

    @admin.display(description="last tick")
    def last_tick(self, schedule: Schedule) -> str:
        return moment(schedule.last_tick_at)

    @admin.display(description="trouble")
    def trouble(self, schedule: Schedule) -> str:
        return schedule.trouble(registry.names()) or "-"

    @admin.display(description="parameters")
    def given(self, schedule: Schedule) -> SafeString:
        return pretty(shown_params(schedule.type, schedule.params))


def _is_own(schedule: Any) -> bool:
    return bool(schedule.origin == "database")
