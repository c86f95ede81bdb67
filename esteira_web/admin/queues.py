"""Queues in the admin: "add" pauses a queue and asks for the reason; the actions pause and resume queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from esteira import operate
from esteira.broker.batching import known_queues
from esteira.errors import EsteiraError
from esteira.models import Queue
from esteira.values.bounds import REASON
from esteira_web.admin.readonly import ReadOnly, Tally, moment, who
from esteira_web.admin.typed import checked


class PauseForm(forms.ModelForm):  # type: ignore[type-arg]
    """The queue to pause, and the reason."""

    name = forms.ChoiceField(help_text="Its jobs wait until the queue is resumed; running jobs end as usual.")
    reason = forms.CharField(required=False, max_length=REASON.most)

    class Meta:
        model = Queue
        fields = ("name", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paused = set(Queue.objects.filter(paused_at__isnull=False).values_list("name", flat=True))
        self.fields["name"].choices = [(q, q) for q in known_queues() if q not in paused]  # type: ignore[attr-defined]

    def clean_reason(self) -> str:
        return checked(REASON, self.cleaned_data["reason"])

    def validate_unique(self) -> None:
        """Allow a name that exists: a queue that was paused before has a row already, and may be paused again."""


@admin.register(Queue)
class QueueAdmin(ReadOnly):
    list_display = ("name", "condition", "paused_by", "reason")
    fields = ("name", "condition", "paused_by", "reason")
    ordering = ("name",)
    actions = ("pause", "resume")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_operate_permission(request)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("esteira.change_queue"))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if change else PauseForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj else ("name", "reason")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj else ()

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return super().add_view(request, form_url, {**(extra_context or {}), "title": "Pause a queue"})

    def save_model(self, request: HttpRequest, obj: Queue, form: Any, change: bool) -> None:
        operate.pause(obj.name, by=who(request), reason=obj.reason)

    @admin.action(description="Pause", permissions=["operate"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
        self._each(request, queryset, lambda name: operate.pause(name, by=who(request)), "paused")

    @admin.action(description="Resume", permissions=["operate"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
        self._each(request, queryset, lambda name: operate.resume(name, by=who(request)), "resumed")

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Queue], act: Callable[[str], None], what: str
    ) -> None:
        tally = Tally()
        for name in queryset.values_list("pk", flat=True):
            try:
                act(name)
                tally.add(what)
            except EsteiraError as error:
                tally.refused.append(error)
        tally.tell(self, request)

    @admin.display(description="state")
    def condition(self, queue: Queue) -> str:
        return f"paused since {moment(queue.paused_at)}" if queue.paused_at else "open"
