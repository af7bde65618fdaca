package conformance

// stubRequest is the certificate request of csrBase64 without its armour: what a kubelet sends for a pod.
const stubRequest = "MIHKMHECAQAwDzENMAsGA1UEAwwEY29uZjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAkteXT6qf0BQdvpeyBWDbplXyLnZGKLVib2JtEb8/UtO1TAyW8aAh8NaDY8dxzSCF+u6uiT3K6qBTqP5D4baPagADAKBggqhkjOPQQDAgNJADBGAiEAvw9SzUeGyBw83EeTV049r3YQdJ4kzd0ZFF/nE5kjP5UCIQDEwXOrU3/3PMB/QNszgPFzMqFv8v+qPkNJilHVS2KbPA=="

// resourceTests are the rows on kinds whose objects need more than a line.
func resourceTests() map[string]test {
	request := kind{
		resource: "certificates.k8s.io/v1/podcertificaterequests",
		object: "kind: PodCertificateRequest\nspec: {signerName: conf.example/signer, podName: pod-a, podUID: p-uid, serviceAccountName: account, serviceAccountUID: s-uid, " +
			"nodeName: node-a, nodeUID: n-uid, stubPKCS10Request: " + stubRequest + "}",
		status: `{"conditions":[{"type":"Denied","status":"True","reason":"E2E","message":"set","lastTransitionTime":"2026-01-01T00:00:00Z"}]}`,
	}
	return map[string]test{
		"[sig-auth] PodCertificateRequest API [Privileged:ClusterAdmin] should support PodCertificateRequest API operations": quickly(request.run),
	}
}
