output "url" {
  description = "The load balancer; point the certificate's name at it."
  value       = "https://${aws_lb.ferry.dns_name}"
}

output "queues" {
  description = "The queues by topic."
  value       = { for name, q in aws_sqs_queue.topic : name => q.url }
}
