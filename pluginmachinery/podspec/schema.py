"""The types that a pod is made of, as ``k8s.io/api`` declares them (v0.36, and what v1.37 adds).

One line per type: its name, then its fields as ``name:kind``. Kinds are ``s`` string, ``b`` bool, ``i`` and
``I`` 32 and 64 bit integer, ``q`` quantity, ``p`` IntOrString, ``[k]`` list, ``{k}`` map, a type's name for a
pointer to it and ``=Name`` for one that is embedded. ``?`` marks a pointer to a scalar, whose zero is kept,
and ``!`` a field that is written even when empty.
"""

from __future__ import annotations

from typing import Final

from propfan._speedups.apitypes import StructType, compile_types

TABLE: Final = """
PodTemplate metadata:=ObjectMeta template:=PodTemplateSpec
PodTemplateSpec metadata:=ObjectMeta spec:=PodSpec
SidecarJob podSpec:PodSpec primaryContainerName:s annotations:{s} labels:{s}
PodSpec activeDeadlineSeconds:?I affinity:Affinity automountServiceAccountToken:?b containers:[Container]!
    dnsConfig:PodDNSConfig dnsPolicy:s enableServiceLinks:?b ephemeralContainers:[EphemeralContainer]
    evictionResponders:[EvictionResponder] hostAliases:[HostAlias] hostIPC:b hostNetwork:b hostPID:b hostUsers:?b
    hostname:s hostnameOverride:?s imagePullSecrets:[LocalObjectReference] initContainers:[Container] nodeName:s
    nodeSelector:{s} os:PodOS overhead:{q} preemptionPolicy:?s priority:?i priorityClassName:s
    readinessGates:[PodReadinessGate] resourceClaims:[PodResourceClaim] resources:ResourceRequirements
    restartPolicy:s runtimeClassName:?s schedulerName:s schedulingGates:[PodSchedulingGate]
    schedulingGroup:PodSchedulingGroup securityContext:PodSecurityContext serviceAccount:s serviceAccountName:s
    setHostnameAsFQDN:?b shareProcessNamespace:?b subdomain:s terminationGracePeriodSeconds:?I
    tolerations:[Toleration] topologySpreadConstraints:[TopologySpreadConstraint] volumes:[Volume]
Affinity nodeAffinity:NodeAffinity podAffinity:PodAffinity podAntiAffinity:PodAntiAffinity
NodeAffinity preferredDuringSchedulingIgnoredDuringExecution:[PreferredSchedulingTerm]
    requiredDuringSchedulingIgnoredDuringExecution:NodeSelector
PreferredSchedulingTerm preference:=NodeSelectorTerm weight:i!
NodeSelectorTerm matchExpressions:[NodeSelectorRequirement] matchFields:[NodeSelectorRequirement]
NodeSelectorRequirement key:s! operator:s! values:[s]
NodeSelector nodeSelectorTerms:[NodeSelectorTerm]!
PodAffinity preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
    requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
WeightedPodAffinityTerm podAffinityTerm:=PodAffinityTerm weight:i!
PodAffinityTerm labelSelector:LabelSelector matchLabelKeys:[s] mismatchLabelKeys:[s] namespaceSelector:LabelSelector
    namespaces:[s] topologyKey:s!
LabelSelector matchExpressions:[LabelSelectorRequirement] matchLabels:{s}
LabelSelectorRequirement key:s! operator:s! values:[s]
PodAntiAffinity preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
    requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
Container args:[s] command:[s] env:[EnvVar] envFrom:[EnvFromSource] image:s imagePullPolicy:s lifecycle:Lifecycle
    livenessProbe:Probe name:s! ports:[ContainerPort] readinessProbe:Probe resizePolicy:[ContainerResizePolicy]
    resources:=ResourceRequirements restartPolicy:?s restartPolicyRules:[ContainerRestartRule]
    securityContext:SecurityContext startupProbe:Probe stdin:b stdinOnce:b terminationMessagePath:s
    terminationMessagePolicy:s tty:b volumeDevices:[VolumeDevice] volumeMounts:[VolumeMount] workingDir:s
EnvVar name:s! value:s valueFrom:EnvVarSource
EnvVarSource configMapKeyRef:ConfigMapKeySelector fieldRef:ObjectFieldSelector fileKeyRef:FileKeySelector
    resourceFieldRef:ResourceFieldSelector secretKeyRef:SecretKeySelector
ConfigMapKeySelector key:s! name:s optional:?b
ObjectFieldSelector apiVersion:s fieldPath:s!
FileKeySelector key:s! optional:?b path:s! volumeName:s!
ResourceFieldSelector containerName:s divisor:q! resource:s!
SecretKeySelector key:s! name:s optional:?b
EnvFromSource configMapRef:ConfigMapEnvSource prefix:s secretRef:SecretEnvSource
ConfigMapEnvSource name:s optional:?b
SecretEnvSource name:s optional:?b
Lifecycle postStart:LifecycleHandler preStop:LifecycleHandler stopSignal:?s
LifecycleHandler exec:ExecAction httpGet:HTTPGetAction sleep:SleepAction tcpSocket:TCPSocketAction
ExecAction command:[s]
HTTPGetAction host:s httpHeaders:[HTTPHeader] path:s port:p! protocol:?s scheme:s
HTTPHeader name:s! value:s!
SleepAction seconds:I!
TCPSocketAction host:s port:p!
Probe exec:ExecAction failureThreshold:i grpc:GRPCAction httpGet:HTTPGetAction initialDelaySeconds:i periodSeconds:i
    successThreshold:i tcpSocket:TCPSocketAction terminationGracePeriodSeconds:?I timeoutSeconds:i
GRPCAction mode:?s port:i! service:?s
ContainerPort containerPort:i! hostIP:s hostPort:i name:s protocol:s
ContainerResizePolicy resourceName:s! restartPolicy:s!
ResourceRequirements claims:[ResourceClaim] limits:{q} requests:{q}
ResourceClaim name:s! request:s
ContainerRestartRule action:s! exitCodes:ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes operator:s! values:[i]
SecurityContext allowPrivilegeEscalation:?b appArmorProfile:AppArmorProfile capabilities:Capabilities privileged:?b
    procMount:?s readOnlyRootFilesystem:?b runAsGroup:?I runAsNonRoot:?b runAsUser:?I seLinuxOptions:SELinuxOptions
    seccompProfile:SeccompProfile windowsOptions:WindowsSecurityContextOptions
AppArmorProfile localhostProfile:?s type:s!
Capabilities add:[s] drop:[s]
SELinuxOptions level:s role:s type:s user:s
SeccompProfile localhostProfile:?s type:s!
WindowsSecurityContextOptions gmsaCredentialSpec:?s gmsaCredentialSpecName:?s hostProcess:?b runAsUserName:?s
VolumeDevice devicePath:s! name:s!
VolumeMount bindMountOptions:[s] mountPath:s! mountPropagation:?s name:s! readOnly:b recursiveReadOnly:?s subPath:s
    subPathExpr:s
PodDNSConfig nameservers:[s] options:[PodDNSConfigOption] searches:[s]
PodDNSConfigOption name:s value:?s
EphemeralContainer args:[s] command:[s] env:[EnvVar] envFrom:[EnvFromSource] image:s imagePullPolicy:s
    lifecycle:Lifecycle livenessProbe:Probe name:s! ports:[ContainerPort] readinessProbe:Probe
    resizePolicy:[ContainerResizePolicy] resources:=ResourceRequirements restartPolicy:?s
    restartPolicyRules:[ContainerRestartRule] securityContext:SecurityContext startupProbe:Probe stdin:b stdinOnce:b
    targetContainerName:s terminationMessagePath:s terminationMessagePolicy:s tty:b volumeDevices:[VolumeDevice]
    volumeMounts:[VolumeMount] workingDir:s
EvictionResponder name:s priority:?i
HostAlias hostnames:[s] ip:s!
LocalObjectReference name:s
PodOS name:s!
PodReadinessGate conditionType:s!
PodResourceClaim name:s! resourceClaimName:?s resourceClaimTemplateName:?s
PodSchedulingGate name:s!
PodSchedulingGroup podGroupName:?s
PodSecurityContext appArmorProfile:AppArmorProfile fsGroup:?I fsGroupChangePolicy:?s runAsGroup:?I runAsNonRoot:?b
    runAsUser:?I seLinuxChangePolicy:?s seLinuxOptions:SELinuxOptions seccompProfile:SeccompProfile
    supplementalGroups:[I] supplementalGroupsPolicy:?s sysctls:[Sysctl] windowsOptions:WindowsSecurityContextOptions
Sysctl name:s! value:s!
Toleration effect:s key:s operator:s tolerationSeconds:?I value:s
TopologySpreadConstraint labelSelector:LabelSelector matchLabelKeys:[s] maxSkew:i! minDomains:?i
    nodeAffinityPolicy:?s nodeTaintsPolicy:?s topologyKey:s! whenUnsatisfiable:s!
Volume awsElasticBlockStore:AWSElasticBlockStoreVolumeSource azureDisk:AzureDiskVolumeSource
    azureFile:AzureFileVolumeSource cephfs:CephFSVolumeSource cinder:CinderVolumeSource
    configMap:ConfigMapVolumeSource csi:CSIVolumeSource downwardAPI:DownwardAPIVolumeSource
    emptyDir:EmptyDirVolumeSource ephemeral:EphemeralVolumeSource fc:FCVolumeSource flexVolume:FlexVolumeSource
    flocker:FlockerVolumeSource gcePersistentDisk:GCEPersistentDiskVolumeSource gitRepo:GitRepoVolumeSource
    glusterfs:GlusterfsVolumeSource hostPath:HostPathVolumeSource image:ImageVolumeSource iscsi:ISCSIVolumeSource
    name:s! nfs:NFSVolumeSource persistentVolumeClaim:PersistentVolumeClaimVolumeSource
    photonPersistentDisk:PhotonPersistentDiskVolumeSource portworxVolume:PortworxVolumeSource
    projected:ProjectedVolumeSource quobyte:QuobyteVolumeSource rbd:RBDVolumeSource scaleIO:ScaleIOVolumeSource
    secret:SecretVolumeSource storageos:StorageOSVolumeSource vsphereVolume:VsphereVirtualDiskVolumeSource
AWSElasticBlockStoreVolumeSource fsType:s partition:i readOnly:b volumeID:s!
AzureDiskVolumeSource cachingMode:?s diskName:s! diskURI:s! fsType:?s kind:?s readOnly:?b
AzureFileVolumeSource readOnly:b secretName:s! shareName:s!
CephFSVolumeSource monitors:[s]! path:s readOnly:b secretFile:s secretRef:LocalObjectReference user:s
CinderVolumeSource fsType:s readOnly:b secretRef:LocalObjectReference volumeID:s!
ConfigMapVolumeSource defaultMode:?i defaultUser:?I items:[KeyToPath] name:s optional:?b
KeyToPath key:s! mode:?i path:s! user:?I
CSIVolumeSource driver:s! fsType:?s nodePublishSecretRef:LocalObjectReference readOnly:?b volumeAttributes:{s}
DownwardAPIVolumeSource defaultMode:?i defaultUser:?I items:[DownwardAPIVolumeFile]
DownwardAPIVolumeFile fieldRef:ObjectFieldSelector mode:?i path:s! resourceFieldRef:ResourceFieldSelector user:?I
EmptyDirVolumeSource medium:s mode:?i sizeLimit:?q
EphemeralVolumeSource volumeClaimTemplate:PersistentVolumeClaimTemplate
PersistentVolumeClaimTemplate metadata:=ObjectMeta spec:=PersistentVolumeClaimSpec
ObjectMeta annotations:{s} creationTimestamp:?s deletionGracePeriodSeconds:?I deletionTimestamp:?s finalizers:[s]
    generateName:s generation:I labels:{s} name:s namespace:s ownerReferences:[OwnerReference] resourceVersion:s
    uid:s
OwnerReference apiVersion:s! blockOwnerDeletion:?b controller:?b kind:s! name:s! uid:s!
PersistentVolumeClaimSpec accessModes:[s] dataSource:TypedLocalObjectReference dataSourceRef:TypedObjectReference
    resources:=VolumeResourceRequirements selector:LabelSelector storageClassName:?s volumeAttributesClassName:?s
    volumeMode:?s volumeName:s
TypedLocalObjectReference apiGroup:?s kind:s! name:s!
TypedObjectReference apiGroup:?s kind:s! name:s! namespace:?s
VolumeResourceRequirements limits:{q} requests:{q}
FCVolumeSource fsType:s lun:?i readOnly:b targetWWNs:[s] wwids:[s]
FlexVolumeSource driver:s! fsType:s options:{s} readOnly:b secretRef:LocalObjectReference
FlockerVolumeSource datasetName:s datasetUUID:s
GCEPersistentDiskVolumeSource fsType:s partition:i pdName:s! readOnly:b
GitRepoVolumeSource directory:s repository:s! revision:s
GlusterfsVolumeSource endpoints:s! path:s! readOnly:b
HostPathVolumeSource path:s! type:?s
ImageVolumeSource pullPolicy:s reference:s
ISCSIVolumeSource chapAuthDiscovery:b chapAuthSession:b fsType:s initiatorName:?s iqn:s! iscsiInterface:s lun:i!
    portals:[s] readOnly:b secretRef:LocalObjectReference targetPortal:s!
NFSVolumeSource path:s! readOnly:b server:s!
PersistentVolumeClaimVolumeSource claimName:s! readOnly:b
PhotonPersistentDiskVolumeSource fsType:s pdID:s!
PortworxVolumeSource fsType:s readOnly:b volumeID:s!
ProjectedVolumeSource defaultMode:?i defaultUser:?I sources:[VolumeProjection]!
VolumeProjection clusterTrustBundle:ClusterTrustBundleProjection configMap:ConfigMapProjection
    downwardAPI:DownwardAPIProjection podCertificate:PodCertificateProjection secret:SecretProjection
    serviceAccountToken:ServiceAccountTokenProjection
ClusterTrustBundleProjection labelSelector:LabelSelector name:?s optional:?b path:s! signerName:?s user:?I
ConfigMapProjection items:[KeyToPath] name:s optional:?b
DownwardAPIProjection items:[DownwardAPIVolumeFile]
PodCertificateProjection certificateChainPath:s credentialBundlePath:s keyPath:s keyType:s! maxExpirationSeconds:?i
    signerName:s! user:?I userAnnotations:{s}
SecretProjection items:[KeyToPath] name:s optional:?b
ServiceAccountTokenProjection audience:s expirationSeconds:?I path:s! user:?I
QuobyteVolumeSource group:s readOnly:b registry:s! tenant:s user:s volume:s!
RBDVolumeSource fsType:s image:s! keyring:s monitors:[s]! pool:s readOnly:b secretRef:LocalObjectReference user:s
ScaleIOVolumeSource fsType:s gateway:s! protectionDomain:s readOnly:b secretRef:LocalObjectReference! sslEnabled:b
    storageMode:s storagePool:s system:s! volumeName:s
SecretVolumeSource defaultMode:?i defaultUser:?I items:[KeyToPath] optional:?b secretName:s
StorageOSVolumeSource fsType:s readOnly:b secretRef:LocalObjectReference volumeName:s volumeNamespace:s
VsphereVirtualDiskVolumeSource fsType:s storagePolicyID:s storagePolicyName:s volumePath:s!
"""

TYPES: Final = compile_types(TABLE)

POD_SPEC: Final[StructType] = TYPES["PodSpec"]
POD_TEMPLATE: Final[StructType] = TYPES["PodTemplate"]
CONTAINER: Final[StructType] = TYPES["Container"]
OBJECT_META: Final[StructType] = TYPES["ObjectMeta"]
