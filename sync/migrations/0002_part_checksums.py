from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("sync", "0001_initial")]

    operations = [
        migrations.RenameField(model_name="transfer", old_name="part_md5s", new_name="part_checksums"),
    ]
