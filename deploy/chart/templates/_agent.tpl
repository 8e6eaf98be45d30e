{{/* What the agent's container is, as a pod of the DaemonSet and as a static one. */}}
{{- define "edge-tunnel.agent.restrictions" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "edge-tunnel.agent.probes" -}}
# That it runs, linked or not: an agent whose server is away is well.
livenessProbe:
  httpGet: {path: /healthz, port: health, host: 127.0.0.1}
  initialDelaySeconds: 10
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 5
# That it is linked: `kubectl get daemonset` counts the edges that can be reached.
readinessProbe:
  httpGet: {path: /readyz, port: health, host: 127.0.0.1}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}
