"""What is watched, and the child that watches.

logs      JSON lines, or pretty on a terminal; never a secret
metrics   every metric there is; files named by the child, so that restarts neither lose nor leak
counting  the files that they are counted in: a full disk ends no process
collectors  metrics that are read from what the monitor knows when somebody asks
tracing   spans of batches, when a collector is set; nothing without one
otel      the same by OpenTelemetry's SDK: sampled, queued, delivered beside
rounds    what is done again and again, in a thread of its own
process   the monitor child: migrations, configuration poll, metrics endpoint
wal       how much WAL each source keeps for us, again and again, in threads of its own
alerts    which WAL alert is told, and when (pure)
leases    which sources are ours to run: taken and renewed, in a thread of its own
silence   whether the supervisor itself hangs, and its end before another one may have its sources
holder    what a supervisor is called, and whether one of this machine is still there
catalog   every metric with its kind, labels and meaning, for the documentation
delivery  WAL alerts on their way out: webhook, Slack's form, e-mail
doctor      what is wrong, at risk or could be better, in everything that is configured
backfills     first copies, told to programs (pure)
meter         what pipelines bring and spend, written down every few seconds
verification  source and target compared because somebody asked: the command and the API do the same
"""
