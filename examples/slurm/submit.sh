#!/bin/sh
# INPUT=/data/in OUTPUT=/data/answers.parquet ./submit.sh
set -e
cd "$(dirname "$0")"
export INPUT OUTPUT
shards=$(sbatch --parsable --export=ALL shards.sbatch)
sbatch --dependency="afterok:$shards" --job-name=batchqa-finalize --wrap "batchqa finalize '$OUTPUT'"
