output "url" {
  description = "ferry's API."
  value       = "https://${azurerm_container_app.ferry.ingress[0].fqdn}"
}

output "namespace" {
  description = "The Service Bus namespace."
  value       = azurerm_servicebus_namespace.ferry.name
}
