"""The one settings module. Every value that may differ between hosts comes from the environment."""

from __future__ import annotations

from typing import Any

from vaulthalla import embedded, env, plugins, secrets

# --- Keys and servers -------------------------------------------------------------------------------------------------

HOME = embedded.home_directory()
SECRET_KEY, SALT_KEY = secrets.keys(HOME)
# Old keys, newest first: what they encrypted stays readable while it is rewritten with the new ones.
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS")

DATABASE_URL, REDIS_URL = embedded.urls()

# The queue this process serves; empty for the web, beat and the command line.
PROCESS = env.choice("VAULTHALLA_PROCESS", ("", "control", "index", "transfer", "web", "beat"), default="")

# What this process reaches: it claims chunks of these pools, and those that any process may do.
POOLS = env.words("VAULTHALLA_POOLS")

# --- Time limits, ordered (vaulthalla.checks proves it) ---------------------------------------------------------------

# A chunk stops itself; everything longer is a backstop.
CHUNK_SECONDS = env.integer("VAULTHALLA_CHUNK_SECONDS", 15, minimum=1)
# All but those that plan, or enter a snapshot into the index, at once: of a hundred million rows that takes an hour.
LONGEST_TASK_SECONDS = 6 * 3600
# Whose root's server went away must not keep others from transfers for as long.
TASK_SECONDS = 15 * 60 if PROCESS == "transfer" else LONGEST_TASK_SECONDS
# The longest that one request or one part may take before its socket times out.
REQUEST_SECONDS = 20
LEASE_SECONDS = 60
LEASE_RENEW_SECONDS = 10
# No request is sent in the last seconds of a lease: the clock that ends it is the database's.
LEASE_MARGIN_SECONDS = 10
SWEEP_SECONDS = 30
# How long the chunks and operations of a finished run are kept; runs and what they spent stay.
HISTORY_DAYS = env.integer("VAULTHALLA_HISTORY_DAYS", 30, minimum=1, maximum=36_500)
# What systemd, Docker or Kubernetes wait between TERM and KILL.
PLATFORM_GRACE_SECONDS = env.integer("VAULTHALLA_PLATFORM_GRACE_SECONDS", 30, minimum=1)

# --- Django -----------------------------------------------------------------------------------------------------------

DEBUG = False
LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", LOCAL_HOSTS)
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

OWN_APPS = ["vaulthalla.vaults", "vaulthalla.work", "budgets", "indexing", "sync"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    *OWN_APPS,
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "vaulthalla.urls"
WSGI_APPLICATION = "vaulthalla.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
STATIC_URL = "/static/"
# The admin's files are served from the packages they come in: there is no collectstatic to forget.
WHITENOISE_USE_FINDERS = True

# DST never moves a schedule: everything is UTC.
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en-us"
USE_I18N = False

# Behind a proxy that ends TLS. On by default as soon as another host than this one is served.
HTTPS = env.flag("VAULTHALLA_HTTPS", default=not set(ALLOWED_HOSTS) <= set(LOCAL_HOSTS))
SECURE_SSL_REDIRECT = HTTPS
# Load balancers ask for health without TLS.
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
X_FRAME_OPTIONS = "DENY"

# --- Database ---------------------------------------------------------------------------------------------------------

DATABASES = {"default": env.database(DATABASE_URL)}
DATABASES["default"].update(
    # Reused between tasks and requests, and tested before reuse, so that a restarted server fails nothing.
    CONN_MAX_AGE=600,
    CONN_HEALTH_CHECKS=True,
    # Server-side cursors need one session and break behind a transaction pooler; pages go by key instead.
    DISABLE_SERVER_SIDE_CURSORS=True,
)
SESSION_LIMITS = {
    # A claim that is stuck behind a dead session must end.
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    # What a killed process was doing must not hold its locks until it is done, nor that of a host which is gone.
    "client_connection_check_interval": "10s",
    "tcp_keepalives_idle": "30s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
}
if PROCESS in ("control", "index", "transfer"):
    # The worker is killed then anyway; its statement must not run on without it.
    SESSION_LIMITS["statement_timeout"] = f"{TASK_SECONDS + 60}s"
DATABASES["default"]["OPTIONS"] = {
    "application_name": f"vaulthalla-{PROCESS or 'command'}",
    # Of a server that vanished from the network nobody would hear for hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": " ".join(f"-c {name}={value}" for name, value in SESSION_LIMITS.items()),
    **DATABASES["default"]["OPTIONS"],
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Logs -------------------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["stderr"],
        "level": env.choice("VAULTHALLA_LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO"),
    },
    # At these levels they write every header of every request, credentials included.
    "loggers": {"botocore": {"level": "WARNING"}, "boto3": {"level": "WARNING"}, "urllib3": {"level": "ERROR"}},
}

# --- Notifications ----------------------------------------------------------------------------------------------------

# Whom to write to, and where to post to. Read by whoever sends: the workers of `control`.
NOTIFY_EMAIL = env.addresses("VAULTHALLA_NOTIFY_EMAIL")
NOTIFY_WEBHOOK = env.web_address("VAULTHALLA_NOTIFY_WEBHOOK_URL")
NOTIFY_WEBHOOK_SECRET = env.signing_key("VAULTHALLA_NOTIFY_WEBHOOK_SECRET", needed_by="VAULTHALLA_NOTIFY_WEBHOOK_URL")
NOTIFY_FROM = env.choice("VAULTHALLA_NOTIFY_FROM", ("info", "warning", "critical"), default="info")

# Django's own names.
EMAIL_BACKEND = env.text("EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
EMAIL_HOST = env.text("EMAIL_HOST", "localhost")
EMAIL_PORT = env.integer("EMAIL_PORT", 25, minimum=1, maximum=65_535)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD")
EMAIL_USE_TLS = env.flag("EMAIL_USE_TLS", default=False)
EMAIL_USE_SSL = env.flag("EMAIL_USE_SSL", default=False)
EMAIL_FILE_PATH = env.text("EMAIL_FILE_PATH") or None
# A server that does not answer must not hold up the other channels.
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", "vaulthalla@localhost")

# --- Celery: messages are doorbells, the database is the queue of record ----------------------------------------------

CELERY_BROKER_URL = env.broker(REDIS_URL)
# Nobody can make a worker unpickle what they put into Redis.
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# Rows are the results; there are no chords and no result backend.
CELERY_TASK_IGNORE_RESULT = True
# Otherwise beat adds a daily clean-up of results that do not exist.
CELERY_RESULT_EXPIRES = None
# Restart and crash redeliver, and with late acks a prefetch of 1 is exact: no message waits inside a busy worker.
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# A chunk that kills its process would otherwise be run for ever; its lease and attempts bring it back instead.
CELERY_TASK_REJECT_ON_WORKER_LOST = False
CELERY_TASK_RETRY_ON_WORKER_LOST = False
CELERY_TASK_SOFT_TIME_LIMIT = TASK_SECONDS
CELERY_TASK_TIME_LIMIT = TASK_SECONDS + 60
# Who waits for a lost doorbell waits for the sweeper, not for this.
# The same in every process, since the shortest wins.
VISIBILITY_TIMEOUT = LONGEST_TASK_SECONDS + 120
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    # By default a lost message waits 100 s for the next look.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # A publish must not hang on a dead connection.
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    # Redis may be shared; the shortest visibility timeout of any application on a prefix wins.
    "global_keyprefix": env.text("REDIS_KEY_PREFIX", "vaulthalla:"),
    **({"master_name": env.text("REDIS_SENTINEL_MASTER")} if env.text("REDIS_SENTINEL_MASTER") else {}),
}
CELERY_VISIBILITY_TIMEOUT = VISIBILITY_TIMEOUT
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"visibility_timeout": VISIBILITY_TIMEOUT}
# The default gives up for good after 100 tries.
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# The sweeper rings again, so nobody waits long for a doorbell.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
CELERY_TASK_DEFAULT_QUEUE = "control"
QUEUES = ("control", "index", "transfer")
# As a mapping, since importing kombu's Queue would cost every command 0.3 s.
CELERY_TASK_QUEUES = {name: {"exchange": name, "routing_key": name} for name in QUEUES}
# A misspelt queue fails loudly instead of filling one that nobody reads.
CELERY_TASK_CREATE_MISSING_QUEUES = False
# On SIGQUIT a chunk gets this long to end by itself; on SIGTERM it is told to stop (vaulthalla.work.ending).
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 20
# There are no delayed messages to put back: an idle worker may end at once.
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = False
# A duplicate sees a live lease and leaves; cancelling would be a signal in the middle of a commit.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 400_000  # KiB
# Rate limits are per worker: no budget, only a full prefetch window.
CELERY_WORKER_DISABLE_RATE_LIMITS = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_CRON_STARTING_DEADLINE = 600
# Celery's Django fixup otherwise reconnects for every task; needs the hook in vaulthalla.celery.
CELERY_DB_REUSE_MAX = 1_000_000

# --- What the layers above bring --------------------------------------------------------------------------------------

VH_COMMANDS = plugins.COMMANDS
VH_PROBE = plugins.PROBE
VH_HANDLERS = plugins.HANDLERS
