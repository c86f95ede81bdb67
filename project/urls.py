"""Addresses: the admin, and everything else in `web`."""

from django.contrib import admin
from django.urls import include, path

from web.passwords import ChangePassword

urlpatterns = [
    path("admin/password_change/", admin.site.admin_view(ChangePassword.as_view())),
    path("admin/", admin.site.urls),
    path("", include("web.urls")),
]

handler400 = "web.edge.bad_request"
handler403 = "web.edge.forbidden"
handler404 = "web.edge.not_found"
handler500 = "web.edge.server_error"
