{{/*
Everything that one service of the platform needs, the same for all: account, deployment, service, scaling.
Called with (dict "root" $ "component" "indexer" "spec" <its values over the defaults>).
*/}}
{{- define "lensmith.service" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $spec := .spec -}}
{{- $service := $spec.service | default $component -}}
{{- $name := printf "%s-%s" (include "lensmith.fullname" $root) $component -}}
{{- $prefix := printf "LENSMITH_%s" (upper $service) -}}
{{- $secrets := include "lensmith.secretPrefix" $root -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels:
    {{- include "lensmith.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "lensmith.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
spec:
  {{- if not $spec.autoscaling.enabled }}
  replicas: {{ $spec.replicas }}
  {{- end }}
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "lensmith.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "lensmith.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "9090"
        {{- with $root.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- include "lensmith.pullSecrets" $root | nindent 6 }}
      securityContext:
        {{- include "lensmith.podSecurityContext" $root | nindent 8 }}
      terminationGracePeriodSeconds: {{ add $root.Values.drainSeconds $root.Values.graceSeconds 10 }}
      {{- with $spec.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- include "lensmith.spread" . | nindent 6 }}
      containers:
        - name: {{ $service }}
          image: {{ include "lensmith.image" (dict "root" $root "service" ($spec.image | default $service)) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          securityContext:
            {{- include "lensmith.containerSecurityContext" $root | nindent 12 }}
          ports:
            - name: grpc
              containerPort: 50051
            - name: metrics
              containerPort: 9090
            {{- if eq $service "gateway" }}
            - name: http
              containerPort: 8000
            {{- end }}
          env:
            - name: {{ $prefix }}_LISTEN
              value: "0.0.0.0:50051"
            - name: {{ $prefix }}_METRICS_LISTEN
              value: "0.0.0.0:9090"
            {{- if eq $service "gateway" }}
            - name: {{ $prefix }}_HTTP_LISTEN
              value: "0.0.0.0:8000"
            {{- end }}
            {{- if eq $service "dataset" }}
            - name: {{ $prefix }}_ROLES
              value: {{ include "lensmith.datasetRoles" . }}
            {{- end }}
            - name: {{ $prefix }}_DRAIN_SECONDS
              value: {{ $root.Values.drainSeconds | quote }}
            - name: {{ $prefix }}_GRACE_SECONDS
              value: {{ $root.Values.graceSeconds | quote }}
            - name: {{ $prefix }}_LOG_LEVEL
              value: {{ $root.Values.logLevel }}
            {{- with $root.Values.otlpEndpoint }}
            - name: {{ $prefix }}_OTLP_ENDPOINT
              value: {{ . | quote }}
            {{- end }}
            - name: {{ $prefix }}_SERVICE_KEY_FILE
              value: /run/secrets/lensmith/service-key.pem
            - name: {{ $prefix }}_SERVICE_KEYS_DIR
              value: /run/secrets/lensmith-keys
            {{- range $other := list "auth" "dataset" "registry" "inference" "trainer" }}
            {{- if ne $other $service }}
            - name: {{ $prefix }}_ADDRESSES__{{ upper $other }}
              value: {{ printf "dns:///%s-%s:50051" (include "lensmith.fullname" $root) $other }}
            {{- end }}
            {{- end }}
            {{- range $spec.secretFiles }}
            - name: {{ $prefix }}_{{ . | upper | replace "-" "_" }}_FILE
              value: /run/secrets/lensmith/{{ . }}
            {{- end }}
            {{- if $spec.cache }}
            - name: {{ $prefix }}_CACHE_DIR
              value: /var/cache/lensmith
            {{- end }}
            {{- with $spec.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # Started when it listens; alive while its loop answers; ready while it can serve its main call.
          startupProbe:
            tcpSocket:
              port: grpc
            periodSeconds: 2
            failureThreshold: {{ div $spec.startSeconds 2 }}
          livenessProbe:
            httpGet:
              path: /healthz
              port: metrics
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            grpc:
              port: 50051
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 2
          resources:
            {{- toYaml $spec.resources | nindent 12 }}
          volumeMounts:
            - name: secrets
              mountPath: /run/secrets/lensmith
              readOnly: true
            - name: keys
              mountPath: /run/secrets/lensmith-keys
              readOnly: true
            - name: tmp
              mountPath: /tmp
            {{- if $spec.cache }}
            - name: cache
              mountPath: /var/cache/lensmith
            {{- end }}
            {{- with $spec.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: secrets
          secret:
            secretName: {{ printf "%s-%s" $secrets $service }}
            defaultMode: 0440
        - name: keys
          secret:
            secretName: {{ printf "%s-keys" $secrets }}
            defaultMode: 0444
        - name: tmp
          emptyDir:
            {{- toYaml $spec.tmp | nindent 12 }}
        {{- with $spec.cache }}
        - name: cache
          emptyDir:
            sizeLimit: {{ . }}
        {{- end }}
        {{- with $spec.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $spec.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $spec.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $spec.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
---
# Without an address of its own: clients find every replica and choose among them call by call.
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels:
    {{- include "lensmith.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
spec:
  clusterIP: None
  selector:
    {{- include "lensmith.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: 50051
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
    {{- if eq $service "gateway" }}
    - name: http
      port: 8000
      targetPort: http
      appProtocol: http
    {{- end }}
{{ include "lensmith.scaling" (dict "root" $root "component" $component "scaling" $spec.autoscaling "budget" $spec.disruptionBudget) }}
{{- end -}}

{{/* What a dataset process does: both halves, unless the indexer is a deployment of its own. */}}
{{- define "lensmith.datasetRoles" -}}
{{- if eq .component "indexer" -}}
indexer
{{- else if .root.Values.services.indexer.enabled -}}
api
{{- else -}}
api,indexer
{{- end -}}
{{- end -}}
