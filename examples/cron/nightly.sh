#!/bin/sh
# Yesterday's rows, from cron: `crontab -e`, then
#
#   MAILTO=you@example.com
#   0 3 * * *  /opt/batchqa/nightly.sh
#
# cron sets few variables, so paths are absolute. It mails all output; --quiet leaves only errors.
# If last night's run is still going, this one ends with 75 and tries again.
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
