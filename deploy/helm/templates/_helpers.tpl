{{/* A part's full name: RELEASE-PART */}}
{{- define "headmap.name" -}}
{{- printf "%s-%s" .root.Release.Name .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "headmap.selector" -}}
app.kubernetes.io/name: headmap
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "headmap.labels" -}}
{{ include "headmap.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "headmap.secret" -}}
{{- required "secret.name: the name of a secret with postgres-password and redis-password" .Values.secret.name -}}
{{- end -}}

{{- define "headmap.image" -}}
{{- printf "%s:%s" (index .root.Values.images .image) (default .root.Chart.AppVersion .root.Values.images.tag) -}}
{{- end -}}

{{- define "headmap.postgresHost" -}}
{{- if .Values.postgres.enabled -}}
{{- include "headmap.name" (dict "root" . "part" "postgres") -}}
{{- else -}}
{{- required "postgres.host: needed where postgres.enabled is false" .Values.postgres.host -}}
{{- end -}}
{{- end -}}

{{- define "headmap.redisHost" -}}
{{- if .Values.redis.enabled -}}
{{- include "headmap.name" (dict "root" . "part" "redis") -}}
{{- else -}}
{{- required "redis.host: needed where redis.enabled is false" .Values.redis.host -}}
{{- end -}}
{{- end -}}

{{/* Settings every process of ours gets; passwords by reference alone */}}
{{- define "headmap.env" -}}
- name: HEADMAP_DATABASE_URL
  value: {{ printf "postgresql://%s@%s:%v/%s" .Values.postgres.user (include "headmap.postgresHost" .) .Values.postgres.port .Values.postgres.database | quote }}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" . }}, key: postgres-password}}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" . }}, key: redis-password}}
- name: HEADMAP_BROKER_URL
  value: {{ printf "redis://:$(REDIS_PASSWORD)@%s:%v/0" (include "headmap.redisHost" .) .Values.redis.port | quote }}
# beside the broker's database, so that a flush of one leaves the other
- name: HEADMAP_RATE_LIMIT_URL
  value: {{ printf "redis://:$(REDIS_PASSWORD)@%s:%v/1" (include "headmap.redisHost" .) .Values.redis.port | quote }}
{{- if .Values.secret.apiKeys }}
- name: HEADMAP_API_KEYS
  valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" . }}, key: api-keys}}
{{- end }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- range $name, $value := .Values.settings }}
- name: HEADMAP_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{ include "headmap.ownEnv" . }}
{{- end -}}

{{/* What every process of ours gets, the dashboard too: how it ends, where its spans go, and what was added */}}
{{- define "headmap.ownEnv" -}}
- name: HEADMAP_DRAIN_SECONDS
  value: {{ .Values.drainSeconds | quote }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: service.instance.id=$(POD_NAME),k8s.pod.name=$(POD_NAME),k8s.namespace.name={{ $.Release.Namespace }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of a pod that answers HTTP: preStop, the drain, and the time to end after it */}}
{{- define "headmap.graceSeconds" -}}
{{- add .Values.drainSeconds 30 -}}
{{- end -}}

{{/* Requests still arrive until every node knows that a pod ends */}}
{{- define "headmap.preStop" -}}
preStop: {exec: {command: [sleep, "5"]}}
{{- end -}}

{{/* What a container of ours may do: nothing but run and write to /tmp */}}
{{- define "headmap.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "headmap.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Labels and annotations of a pod. Takes root, part and, where the part has its own, annotations. */}}
{{- define "headmap.podMetadata" -}}
labels:
  {{- include "headmap.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The head of every pod: no token of the cluster, our user, pull secrets */}}
{{- define "headmap.pod" -}}
automountServiceAccountToken: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false
securityContext: {{- include "headmap.podSecurity" . | nindent 2 }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where a pod may run; one that asks for GPUs goes to their nodes. Takes root and the part's values. */}}
{{- define "headmap.placement" -}}
{{- $gpu := gt (int (default 0 .part.gpus)) 0 -}}
{{- with merge (dict) .part.nodeSelector (ternary .root.Values.gpu.nodeSelector (dict) $gpu) }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .part.tolerations (ternary .root.Values.gpu.tolerations (list) $gpu) }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "headmap.resources" -}}
{{- $resources := deepCopy .part.resources -}}
{{- if gt (int (default 0 .part.gpus)) 0 -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .root.Values.gpu.resource (int .part.gpus))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Replicas of one part on different nodes where there are several */}}
{{- define "headmap.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "headmap.selector" . | nindent 8 }}
{{- end -}}

{{- define "headmap.models" -}}
{{- if .Values.models.volume.enabled }}
persistentVolumeClaim:
  claimName: {{ default (include "headmap.name" (dict "root" . "part" "models")) .Values.models.volume.existingClaim }}
{{- else }}
{{- if ne (.Values.settings.models | toString | fromJsonArray | join ",") "headmap/demo-ocr" }}
{{- fail "models.volume.enabled: models other than headmap/demo-ocr need a volume that scoring, workers and inference share" }}
{{- end }}
emptyDir: {}
{{- end }}
{{- end -}}

{{/* Where datasets lie, for those who read or write them */}}
{{- define "headmap.datasetEnv" -}}
{{- with .Values.datasets -}}
{{- if .s3.url -}}
- name: HEADMAP_BLOB_URL
  value: {{ .s3.url | quote }}
{{- with .s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .s3.keys }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" $ }}, key: aws-access-key-id}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" $ }}, key: aws-secret-access-key}}
{{- end }}
{{- else if .volume.enabled -}}
- name: HEADMAP_BLOB_URL
  value: file:///blobs
{{- else -}}
{{- fail "datasets: set datasets.s3.url, or datasets.volume.enabled for a volume that many nodes can mount" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headmap.datasetClaim" -}}
{{- default (include "headmap.name" (dict "root" . "part" "datasets")) .Values.datasets.volume.existingClaim -}}
{{- end -}}

{{- define "headmap.hasDatasetVolume" -}}
{{- if and .Values.datasets.volume.enabled (not .Values.datasets.s3.url) }}yes{{ end -}}
{{- end -}}

{{/* Fetches what is not in the volume yet; does nothing for the bundled model */}}
{{- define "headmap.fetch" -}}
- name: fetch
  image: {{ include "headmap.image" (dict "root" . "image" "model") }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  command: [python, -m, services.fetch]
  env:
    - name: HEADMAP_MODELS
      value: {{ .Values.settings.models | toString | quote }}
    - name: HEADMAP_MODEL_DIRS
      value: {{ .Values.settings.model_dirs | toString | quote }}
    {{- if .Values.secret.hfToken }}
    - name: HF_TOKEN
      valueFrom: {secretKeyRef: {name: {{ include "headmap.secret" . }}, key: hf-token}}
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext: {{- include "headmap.confined" . | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 2Gi}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: models, mountPath: /models}
{{- end -}}
