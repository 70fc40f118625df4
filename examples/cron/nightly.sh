#!/bin/sh
# Yesterday's rows, from cron: `crontab -e`, then
#
#   MAILTO=you@example.com
#   0 3 * * *  /opt/batchqa/nightly.sh
#
# cron gives a bare environment, so paths are written out. It mails what is written; --quiet leaves only errors.
# If the last night's run is still at it, this one ends with 75 and tries again.
DATA=${DATA:-/data}
BATCHQA=${BATCHQA:-/opt/batchqa/bin/batchqa}
day=$(date -d yesterday +%F)

for pause in 300 1800 0; do
  "$BATCHQA" run "$DATA/in/$day/" --output "$DATA/out/$day.parquet" --if-no-input skip \
    --summary "$DATA/out/$day.json" --quiet >/dev/null
  code=$?
  case $code in
  74 | 75) sleep "${PAUSE:-$pause}" ;; # worth another try, which resumes
  99) exit 0 ;;                        # a day without rows
  *) exit "$code" ;;
  esac
done
exit "$code"
