#!/bin/sh
# An array of sixteen jobs, each a shard (AWS_BATCH_JOB_ARRAY_INDEX and _SIZE are set by AWS Batch), then one that
# publishes. Exit codes 2 to 5 end a job, everything else is retried (job-definition.json).
set -e
cd "$(dirname "$0")"
aws batch register-job-definition --cli-input-json file://job-definition.json
shards=$(aws batch submit-job --job-name batchqa-shards --job-queue "$QUEUE" --job-definition batchqa \
  --array-properties size=16 --query jobId --output text)
aws batch submit-job --job-name batchqa-finalize --job-queue "$QUEUE" --job-definition batchqa \
  --depends-on "jobId=$shards" \
  --container-overrides '{"command": ["finalize", "s3://my-bucket/answers.parquet"]}'
