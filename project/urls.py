"""URLs: the admin, and all others from `esteira_web`."""

from django.contrib import admin
from django.urls import include, path

from esteira_web.accounts.passwords import ChangePassword

urlpatterns = [
    path("admin/password_change/", admin.site.admin_view(ChangePassword.as_view())),
    path("admin/", admin.site.urls),
    path("", include("esteira_web.urls")),
]

handler400 = "esteira_web.server.middleware.bad_request"
handler403 = "esteira_web.server.middleware.forbidden"
handler404 = "esteira_web.server.middleware.not_found"
handler500 = "esteira_web.server.middleware.server_error"
