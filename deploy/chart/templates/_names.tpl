{{/* Labels of every object. */}}
{{- define "edge-tunnel.labels" -}}
app.kubernetes.io/name: edge-tunnel
app.kubernetes.io/part-of: edge-tunnel
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What selects the pods of a component: a dictionary of root and component. */}}
{{- define "edge-tunnel.selector" -}}
app.kubernetes.io/name: edge-tunnel
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "edge-tunnel.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* A list of strings in TOML, which writes them as JSON does. */}}
{{- define "edge-tunnel.list" -}}
[{{ range $n, $each := . }}{{ if $n }}, {{ end }}{{ $each | toJson }}{{ end }}]
{{- end }}

{{- define "edge-tunnel.addresses" -}}
{{- if not .Values.serverAddresses -}}
{{- fail "serverAddresses is empty: say where agents reach the server from outside, such as --set serverAddresses={tunnel.example.org:10262}" -}}
{{- end -}}
{{- include "edge-tunnel.list" .Values.serverAddresses -}}
{{- end }}

{{- define "edge-tunnel.services" -}}
{{- if and (not .Values.serviceNetworks) (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "serviceNetworks is empty, and Kubernetes %s does not say it itself: give kube-apiserver's --service-cluster-ip-range, such as --set serviceNetworks={10.96.0.0/12}" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- include "edge-tunnel.list" .Values.serviceNetworks -}}
{{- end }}

{{- define "edge-tunnel.networks" -}}
{{- if not .Values.edgeNetworks -}}
{{- fail "edgeNetworks is empty: name the networks that edges are in, such as --set edgeNetworks={192.168.0.0/16}" -}}
{{- end -}}
{{- include "edge-tunnel.list" .Values.edgeNetworks -}}
{{- end }}
