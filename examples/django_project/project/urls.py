from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("media/<path:name>", views.download, name="download"),
    path("report.csv", views.report, name="report"),
    path("all.zip", views.archive, name="archive"),
]
