{{/* A name that resolves to every ready pod: the gateway spreads over them itself */}}
{{- define "headmap.headless" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "headmap.name" . }}
  labels: {{- include "headmap.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- include "headmap.selector" . | nindent 4 }}
  ports:
    - {name: http, port: 8000, targetPort: http}
{{- end -}}

{{/* Nodes are emptied one replica at a time */}}
{{- define "headmap.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "headmap.name" . }}
  labels: {{- include "headmap.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "headmap.selector" . | nindent 6 }}
{{- end -}}
