"""URLs: the admin, and all others from `esteira_web`."""

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.urls import include, path

from esteira_web.accounts.passwords import ChangePassword
from esteira_web.admin.asked import OnlyWhatIsOffered

# Accounts and groups have Django's own pages, with one change: their lists accept only the filters that they offer.
for model in (get_user_model(), Group):
    page = type(admin.site.get_model_admin(model))
    admin.site.unregister(model)
    admin.site.register(model, type(page.__name__, (OnlyWhatIsOffered, page), {}))

urlpatterns = [
    path("admin/password_change/", admin.site.admin_view(ChangePassword.as_view())),
    path("admin/", admin.site.urls),
    path("", include("esteira_web.urls")),
]

handler400 = "esteira_web.server.middleware.bad_request"
handler403 = "esteira_web.server.middleware.forbidden"
handler404 = "esteira_web.server.middleware.not_found"
handler500 = "esteira_web.server.middleware.server_error"
