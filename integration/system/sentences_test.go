package system

func parts() []part {
	return []part{
		{"architecture", []sentence{
			{"control plane and worker nodes", controlPlaneAndWorkers},
			{"parts talk only to the API server, only the API server talks to etcd", onlyAPIServerTalksToEtcd},
			{"logs, attach, exec and port-forward go from the API server to the kubelet", logsExecAttachPortForward},
			{"the kubelet alone is a plain process, the control plane runs as static pods", kubeletAloneIsPlain},
			{"componentstatuses shows health", componentStatuses},
		}},
		{"etcd", []sentence{
			{"every object is one key under registry", keysInEtcd},
			{"of two writers with the same version one wins", oneWriterWins},
			{"3, 5 or 7 members, a majority goes on", nil},
			{"secrets are encrypted at rest", nil},
		}},
		{"api-server", []sentence{
			{"REST create, read, update, delete, watch", restVerbs},
			{"a wrong token is not let in", wrongToken},
			{"a forbidden verb is refused", forbiddenVerb},
			{"admission changes and refuses", admissionChangesAndRefuses},
			{"invalid, untyped and unknown fields are refused", invalidObjects},
			{"it notifies watchers with the whole new object for every change", watchWholeObjects},
			{"get -w shows each state", kubectlWatch},
		}},
		{"scheduler", []sentence{
			{"it filters nodes by selector, taints, resources and affinity", schedulerFilters},
			{"it takes turns among equals and spreads the pods of a ReplicaSet", schedulerSpreads},
			{"pods of an unknown scheduler wait", unknownScheduler},
		}},
		{"controllers", []sentence{
			{"Deployment by new ReplicaSets, with undo", rolloutAndUndo},
			{"ReplicaSet replaces a deleted pod", replacedPod},
			{"DaemonSet", daemonSet},
			{"ReplicationController", replicationController},
			{"Job", jobCompletes},
			{"StatefulSet", statefulSetIsOrdered},
			{"Node: health, and eviction from unreachable nodes", nodeStopped},
			{"Service: load balancers", nil},
			{"Endpoints: ready addresses for each selector", endpointsFollow},
			{"Namespace: deletes all that is in it", namespaceDeletesContent},
			{"PersistentVolume: the smallest fitting volume", nil},
		}},
		{"kubelet", []sentence{
			{"it creates its Node", kubeletCreatesNode},
			{"it reports status and events", chainOfEvents},
			{"it restarts what fails, and counts", killedContainerIsRestarted},
			{"it restarts what fails its liveness probe", livenessProbe},
			{"it ends containers when a pod is deleted, with preStop", gracefulDeletion},
			{"it reports resource use", kubeletReportsUse},
			{"it runs manifests without any API server", staticPodWithoutAPI},
			{"init containers, env and volumes", initEnvVolumes},
			{"killed while pods come and go, it loses and leaves nothing", kubeletCrashes},
		}},
		{"pod", []sentence{
			{"the pause container holds the namespaces that the containers join", pauseHoldsNamespaces},
			{"a restarted container joins them again", restartedContainerJoins},
			{"if the pause dies the whole pod is made again", pauseDies},
		}},
		{"chain-of-events", []sentence{
			{"Deployment, ReplicaSet, pods, node, with their sources and reasons", chainOfEvents},
		}},
		{"pod-network", []sentence{
			{"a pod's address is the same inside and for all others", podAddresses},
			{"no NAT between pod and node", podNodeAddresses},
			{"a veth pair per pod, on the node's bridge", vethOnBridge},
			{"each node has a range of its own, routed between nodes", routedRanges},
			{"towards the outside the node's address", nil},
			{"an overlay where routers lie between", nil},
			{"the network plugin installs as a DaemonSet", agentIsDaemonSet},
		}},
		{"services", []sentence{
			{"a stable virtual address, on no interface", virtualAddress},
			{"a ClusterIP and a name are answered by all replicas, from a pod and from a host", serviceAnswers},
			{"by eBPF, with pinned links and no netfilter rule", ebpfServices},
			{"NodePort, TCP and UDP", nodePortAndUDP},
			{"endpoints change with readiness", endpointsFollowReadiness},
			{"the address pair matters", addressPair},
		}},
		{"add-ons", []sentence{
			{"cluster DNS behind kube-dns, in every container's resolv.conf", clusterDNS},
			{"headless Services name their pods", headlessDNS},
			{"Ingress controllers", nil},
			{"Dashboard", nil},
		}},
		{"high-availability", []sentence{
			{"controllers and scheduler elect one leader by a record", leaderRecord},
			{"restarts of kubelet, containerd, agent and API server drop nothing", faults},
			{"control plane of several nodes", nil},
		}},
	}
}
