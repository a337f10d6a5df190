# ferry on Azure: Container Apps in front, Service Bus as the queue, a managed identity instead of keys, and PostgreSQL for
# what instances share: leases, run history, and the cursors that Service Bus cannot keep. Not applied against Azure: see
# README.md.

terraform {
  required_version = ">= 1.6"
  required_providers {
    azurerm = { source = "hashicorp/azurerm", version = "~> 4.0" }
    random  = { source = "hashicorp/random", version = "~> 3.6" }
  }
}

provider "azurerm" {
  features {}
  subscription_id = var.subscription
}

locals {
  tags   = merge({ application = var.name }, var.tags)
  queues = toset(concat(var.topics, [for t in var.topics : "${t}.dead"]))
  database_url = format("postgres://%s:%s@%s/%s?sslmode=require",
    azurerm_postgresql_flexible_server.state.administrator_login, random_password.database.result,
  azurerm_postgresql_flexible_server.state.fqdn, azurerm_postgresql_flexible_server_database.state.name)
}

resource "azurerm_resource_group" "ferry" {
  name     = var.name
  location = var.location
  tags     = local.tags
}

# The queue. Service Bus forgets a record's id after the window; a retry that comes later than half of it says so.

resource "azurerm_servicebus_namespace" "ferry" {
  name                = "${var.name}-${random_string.suffix.result}"
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  sku                 = var.servicebus_sku
  capacity            = var.servicebus_sku == "Premium" ? 1 : 0
  local_auth_enabled  = false # the identity alone
  minimum_tls_version = "1.2"
  tags                = local.tags
}

resource "random_string" "suffix" {
  length  = 6
  upper   = false
  special = false
}

resource "azurerm_servicebus_queue" "topic" {
  for_each                                = local.queues
  name                                    = each.key
  namespace_id                            = azurerm_servicebus_namespace.ferry.id
  requires_duplicate_detection            = true
  duplicate_detection_history_time_window = "PT10M"
  max_size_in_megabytes                   = 5120
  lock_duration                           = "PT1M"
  max_delivery_count                      = 10
}

# Who ferry is.

resource "azurerm_user_assigned_identity" "ferry" {
  name                = var.name
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  tags                = local.tags
}

resource "azurerm_role_assignment" "queues" {
  for_each             = toset(["Azure Service Bus Data Sender", "Azure Service Bus Data Receiver"])
  scope                = azurerm_servicebus_namespace.ferry.id
  role_definition_name = each.value
  principal_id         = azurerm_user_assigned_identity.ferry.principal_id
}

# The state.

resource "random_password" "database" {
  length  = 32
  special = false # it stands in a URL
}

resource "azurerm_postgresql_flexible_server" "state" {
  name                          = "${var.name}-state-${random_string.suffix.result}"
  resource_group_name           = azurerm_resource_group.ferry.name
  location                      = azurerm_resource_group.ferry.location
  version                       = "17"
  sku_name                      = var.database_sku
  storage_mb                    = 32768
  administrator_login           = "ferry"
  administrator_password        = random_password.database.result
  backup_retention_days         = 7
  delegated_subnet_id           = var.database_subnet
  private_dns_zone_id           = var.database_dns_zone
  public_network_access_enabled = false
  tags                          = local.tags
  lifecycle {
    ignore_changes = [zone]
  }
}

resource "azurerm_postgresql_flexible_server_database" "state" {
  name      = "ferry"
  server_id = azurerm_postgresql_flexible_server.state.id
}

# The instances.

resource "azurerm_log_analytics_workspace" "ferry" {
  name                = var.name
  resource_group_name = azurerm_resource_group.ferry.name
  location            = azurerm_resource_group.ferry.location
  retention_in_days   = 30
  tags                = local.tags
}

resource "azurerm_container_app_environment" "ferry" {
  name                       = var.name
  resource_group_name        = azurerm_resource_group.ferry.name
  location                   = azurerm_resource_group.ferry.location
  log_analytics_workspace_id = azurerm_log_analytics_workspace.ferry.id
  infrastructure_subnet_id   = var.apps_subnet
  tags                       = local.tags
}

resource "azurerm_container_app" "ferry" {
  name                         = var.name
  container_app_environment_id = azurerm_container_app_environment.ferry.id
  resource_group_name          = azurerm_resource_group.ferry.name
  revision_mode                = "Single"
  tags                         = local.tags
  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.ferry.id]
  }
  secret {
    name  = "api-key"
    value = var.api_key
  }
  secret {
    name  = "state"
    value = local.database_url
  }
  ingress {
    external_enabled = var.external
    target_port      = 8080
    transport        = "http"
    traffic_weight {
      latest_revision = true
      percentage      = 100
    }
  }
  template {
    min_replicas                     = var.least
    max_replicas                     = var.most
    termination_grace_period_seconds = 60 # drain_delay, grace, and some seconds to close
    http_scale_rule {
      name                = "requests"
      concurrent_requests = "50"
    }
    container {
      name   = "ferry"
      image  = var.image
      cpu    = var.cpu
      memory = var.memory
      env {
        name  = "FERRY_ENV"
        value = "prod"
      }
      env {
        name  = "FERRY_QUEUE"
        value = "azservicebus://${azurerm_servicebus_namespace.ferry.name}.servicebus.windows.net"
      }
      env {
        name  = "AZURE_CLIENT_ID"
        value = azurerm_user_assigned_identity.ferry.client_id
      }
      env {
        name  = "FERRY_SERVER_DRAIN_DELAY"
        value = "10s"
      }
      env {
        name  = "API_URL"
        value = var.api_url
      }
      env {
        name        = "FERRY_API_KEY"
        secret_name = "api-key"
      }
      env {
        name        = "FERRY_STATE"
        secret_name = "state"
      }
      dynamic "env" {
        for_each = var.environment
        content {
          name  = env.key
          value = env.value
        }
      }
      startup_probe {
        transport               = "HTTP"
        path                    = "/livez"
        port                    = 8080
        interval_seconds        = 2
        failure_count_threshold = 30
      }
      liveness_probe {
        transport = "HTTP"
        path      = "/livez"
        port      = 8080
      }
      readiness_probe {
        transport        = "HTTP"
        path             = "/readyz"
        port             = 8080
        interval_seconds = 3
      }
    }
  }
  depends_on = [azurerm_role_assignment.queues, azurerm_servicebus_queue.topic]
}
