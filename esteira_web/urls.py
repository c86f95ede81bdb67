"""Addresses: health, the API, signing in, and the pages."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.templatetags.static import static
from django.urls import path, re_path
from django.views.generic import RedirectView

from esteira_web.api.answers import not_found
from esteira_web.api.routes import api as api_v1
from esteira_web.pages import account, jobs
from esteira_web.server import health

urlpatterns = [
    path("livez", health.view),
    path("readyz", health.view),
    path("api/v1/", not_found),  # ninja would answer with a page, not with a problem document
    path("api/v1/", api_v1.urls),
    re_path(r"^api(?:/|$)", not_found),
    path("favicon.ico", login_not_required(RedirectView.as_view(url=static("esteira_web/icon.svg")))),
    path("login/", account.LogIn.as_view(), name="login"),
    path("logout/", account.LogOut.as_view(), name="logout"),
    path("", jobs.job_list, name="jobs"),
    path("jobs/<id:job_id>/", jobs.job_detail, name="job"),
    path("jobs/<id:job_id>/cancel/", jobs.cancel_job, name="job-cancel"),
    path("jobs/<id:job_id>/retry/", jobs.retry_job, name="job-retry"),
    path("problems/<slug:code>", jobs.problem_type, name="problem"),
]
