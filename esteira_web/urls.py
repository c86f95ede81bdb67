"""Health, the API, signing in and the pages: `path("esteira/", include("esteira_web.urls"))` mounts them."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required, login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.urls import path, re_path

from esteira_web.api.answers import not_found
from esteira_web.api.routes import api as api_v1
from esteira_web.pages import account, jobs
from esteira_web.server import health
from esteira_web.server.mounted import mounted


@login_not_required
def icon(request: HttpRequest) -> HttpResponse:
    """Redirect to the icon; its address may be known only after `collectstatic`."""
    return redirect(static("esteira_web/icon.svg"))


urlpatterns = mounted(
    [
        path("livez", health.view),
        path("readyz", health.view),
        path("api/v1/", not_found),  # ninja would answer with a page, not with a problem document
        path("api/v1/", api_v1.urls),
        re_path(r"^api(?:/|$)", not_found),
        path("favicon.ico", icon),
        path("login/", account.LogIn.as_view(), name="esteira-login"),
        path("logout/", account.LogOut.as_view(), name="esteira-logout"),
        path("", login_required(jobs.job_list), name="esteira-jobs"),
        path("jobs/<id:job_id>/", login_required(jobs.job_detail), name="esteira-job"),
        path("jobs/<id:job_id>/cancel/", login_required(jobs.cancel_job), name="esteira-job-cancel"),
        path("jobs/<id:job_id>/retry/", login_required(jobs.retry_job), name="esteira-job-retry"),
        path("problems/<slug:code>", login_required(jobs.problem_type), name="esteira-problem"),
    ]
)
