#!/usr/bin/env bash
# submit.sh IMAGE CLAIM PLACE THREADS MEM_MB RUNTIME GPUS JOBSCRIPT: a Kubernetes Job in the namespace of kubectl's context; prints its name.
set -euo pipefail
read -r image claim place threads mem_mb runtime gpus script <<< "$*"
gpu=; [ "$gpus" = 0 ] || gpu=", nvidia.com/gpu: $gpus"
kubectl create -o name -f - <<JOB
apiVersion: batch/v1
kind: Job
metadata:
  generateName: palimpsest-
  labels: {app: palimpsest}
spec:
  backoffLimit: 0 # Snakemake tries again
  activeDeadlineSeconds: $((runtime * 60))
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels: {app: palimpsest}
    spec:
      restartPolicy: Never
      securityContext: {runAsUser: $(id -u), runAsGroup: $(id -g)}
      containers:
        - name: job
          image: $image
          command: [sh, "$script"]
          workingDir: "$PWD"
          env:
            - {name: PATH, value: "$PATH"}
            - {name: PYTHONPATH, value: "${PYTHONPATH:-}"}
            - {name: OMP_NUM_THREADS, value: "${OMP_NUM_THREADS:-1}"}
            - {name: PALIMPSEST_KEEP, value: "${PALIMPSEST_KEEP:-1}"}
          resources:
            requests: {cpu: $threads, memory: ${mem_mb}M}
            limits: {memory: ${mem_mb}M$gpu}
          volumeMounts:
            - {name: shared, mountPath: "$place"}
      volumes:
        - name: shared
          persistentVolumeClaim: {claimName: $claim}
JOB
